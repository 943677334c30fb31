-- A feed in blocks: events that came in together are one row, compressed, and what they are looked for by stands beside them.
-- Events that came before stay in `events` until their time is over.

-- Of the newest event in blocks: what is younger was not delivered yet.
ALTER TABLE offices ADD COLUMN newest_time timestamptz NOT NULL DEFAULT 'epoch';

-- Times are the earliest and the latest of the events, a second apart at most. `categories` has a bit for each category, `ids`
-- the events' ids one after the other, `agents` the names that are in `feed_agents`.
CREATE TABLE feed_blocks (
    office_id  uuid NOT NULL,
    last_seq   bigint NOT NULL,
    first_time timestamptz NOT NULL,
    last_time  timestamptz NOT NULL,
    categories bigint NOT NULL,
    agents     json NOT NULL,
    ids        bytea NOT NULL,
    raw_bytes  bigint NOT NULL,
    events     bytea NOT NULL,
    PRIMARY KEY (office_id, last_seq)
);
-- Blocks are compressed already.
ALTER TABLE feed_blocks ALTER COLUMN events SET STORAGE EXTERNAL;
ALTER TABLE feed_blocks ALTER COLUMN ids SET STORAGE EXTERNAL;
-- The last two so that what is not asked for is passed over inside the index.
CREATE INDEX feed_blocks_by_time ON feed_blocks (office_id, last_time, last_seq, first_time, categories);

-- In which blocks an agent has events.
CREATE TABLE feed_agents (
    office_id  uuid NOT NULL,
    agent      text NOT NULL,
    last_time  timestamptz NOT NULL,
    last_seq   bigint NOT NULL,
    categories bigint NOT NULL,
    PRIMARY KEY (office_id, agent, last_time, last_seq) INCLUDE (categories)
);
SELECT office_wall('feed_blocks', 'office_id');
SELECT office_wall('feed_agents', 'office_id');
