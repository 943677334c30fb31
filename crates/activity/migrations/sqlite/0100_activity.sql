-- What this role knows about an office. The row is also the counter of its feed and, once removed, its tombstone; the
-- account is unknown while events come before the office itself.
CREATE TABLE offices (
    office_id  BLOB PRIMARY KEY,
    account_id BLOB,
    version    INTEGER NOT NULL,
    removed    INTEGER NOT NULL,
    next_seq   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    event_id   BLOB PRIMARY KEY,
    office_id  BLOB NOT NULL,
    seq        INTEGER NOT NULL,
    time       TEXT NOT NULL,
    agent      TEXT NOT NULL,
    category   TEXT NOT NULL,
    type       TEXT NOT NULL,
    summary    TEXT NOT NULL,
    metadata   TEXT NOT NULL,
    trace_id   TEXT NOT NULL,
    UNIQUE (office_id, seq)
) STRICT;
-- The category comes last so that a filter on it is decided inside the index.
CREATE INDEX events_by_time ON events (office_id, time, seq, category);
CREATE INDEX events_by_agent ON events (office_id, agent, time, seq, category);
CREATE INDEX events_by_age ON events (time);

CREATE TABLE log_streams (
    agent_id   BLOB PRIMARY KEY,
    office_id  BLOB NOT NULL,
    agent      TEXT NOT NULL,
    next_seq   INTEGER NOT NULL,
    sources    TEXT NOT NULL,
    updated_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX log_streams_by_name ON log_streams (office_id, agent, agent_id);

-- Blocks of lines that no segment holds yet. Times are the earliest and the latest of the lines.
CREATE TABLE log_tail (
    agent_id   BLOB NOT NULL,
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    first_time TEXT NOT NULL,
    last_time  TEXT NOT NULL,
    written_at TEXT NOT NULL,
    raw_bytes  INTEGER NOT NULL,
    lines      BLOB NOT NULL,
    PRIMARY KEY (agent_id, last_seq)
) STRICT;
CREATE INDEX log_tail_backlog ON log_tail (agent_id, raw_bytes, written_at);

CREATE TABLE log_segments (
    agent_id     BLOB NOT NULL,
    first_seq    INTEGER NOT NULL,
    last_seq     INTEGER NOT NULL,
    first_time   TEXT NOT NULL,
    last_time    TEXT NOT NULL,
    written_at   TEXT NOT NULL,
    raw_bytes    INTEGER NOT NULL,
    stored_bytes INTEGER NOT NULL,
    path         TEXT NOT NULL UNIQUE,
    PRIMARY KEY (agent_id, last_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_segments_by_age ON log_segments (written_at);
