-- What this role knows about an office. The row is also the counter of its feed and, once removed, its tombstone; the
-- account is unknown while events come before the office itself.
CREATE TABLE offices (
    office_id  uuid PRIMARY KEY,
    account_id uuid,
    version    bigint NOT NULL,
    removed    boolean NOT NULL,
    next_seq   bigint NOT NULL
);

CREATE TABLE events (
    event_id   uuid PRIMARY KEY,
    office_id  uuid NOT NULL,
    seq        bigint NOT NULL,
    time       timestamptz NOT NULL,
    agent      text NOT NULL,
    category   text NOT NULL,
    type       text NOT NULL,
    summary    text NOT NULL,
    metadata   jsonb NOT NULL,
    trace_id   text NOT NULL,
    UNIQUE (office_id, seq)
);
-- The category comes last so that a filter on it is decided inside the index.
CREATE INDEX events_by_time ON events (office_id, time, seq, category);
CREATE INDEX events_by_agent ON events (office_id, agent, time, seq, category);
CREATE INDEX events_by_age ON events (time);

CREATE TABLE log_streams (
    agent_id   uuid PRIMARY KEY,
    office_id  uuid NOT NULL,
    agent      text NOT NULL,
    next_seq   bigint NOT NULL,
    sources    jsonb NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX log_streams_by_name ON log_streams (office_id, agent, agent_id);

-- Blocks of lines that no segment holds yet. Times are the earliest and the latest of the lines.
CREATE TABLE log_tail (
    agent_id   uuid NOT NULL,
    first_seq  bigint NOT NULL,
    last_seq   bigint NOT NULL,
    first_time timestamptz NOT NULL,
    last_time  timestamptz NOT NULL,
    written_at timestamptz NOT NULL,
    raw_bytes  bigint NOT NULL,
    lines      bytea NOT NULL,
    PRIMARY KEY (agent_id, last_seq)
);
-- Blocks are compressed already.
ALTER TABLE log_tail ALTER COLUMN lines SET STORAGE EXTERNAL;
CREATE INDEX log_tail_backlog ON log_tail (agent_id, raw_bytes, written_at);

CREATE TABLE log_segments (
    agent_id     uuid NOT NULL,
    first_seq    bigint NOT NULL,
    last_seq     bigint NOT NULL,
    first_time   timestamptz NOT NULL,
    last_time    timestamptz NOT NULL,
    written_at   timestamptz NOT NULL,
    raw_bytes    bigint NOT NULL,
    stored_bytes bigint NOT NULL,
    path         text NOT NULL UNIQUE,
    PRIMARY KEY (agent_id, last_seq)
);
CREATE INDEX log_segments_by_age ON log_segments (written_at);
