-- A feed in blocks: events that came in together are one row, compressed, and what they are looked for by stands beside them.
-- Events that came before stay in `events` until their time is over.

-- Of the newest event in blocks: what is younger was not delivered yet.
ALTER TABLE offices ADD COLUMN newest_time TEXT NOT NULL DEFAULT '1970-01-01T00:00:00+00:00';

-- Times are the earliest and the latest of the events, a second apart at most. `categories` has a bit for each category, `ids`
-- the events' ids one after the other, `agents` the names that are in `feed_agents`.
CREATE TABLE feed_blocks (
    office_id  BLOB NOT NULL,
    last_seq   INTEGER NOT NULL,
    first_time TEXT NOT NULL,
    last_time  TEXT NOT NULL,
    categories INTEGER NOT NULL,
    agents     TEXT NOT NULL,
    ids        BLOB NOT NULL,
    raw_bytes  INTEGER NOT NULL,
    events     BLOB NOT NULL,
    PRIMARY KEY (office_id, last_seq)
) STRICT;
-- The last two so that what is not asked for is passed over inside the index.
CREATE INDEX feed_blocks_by_time ON feed_blocks (office_id, last_time, last_seq, first_time, categories);

-- In which blocks an agent has events.
CREATE TABLE feed_agents (
    office_id  BLOB NOT NULL,
    agent      TEXT NOT NULL,
    last_time  TEXT NOT NULL,
    last_seq   INTEGER NOT NULL,
    categories INTEGER NOT NULL,
    PRIMARY KEY (office_id, agent, last_time, last_seq)
) STRICT, WITHOUT ROWID;
