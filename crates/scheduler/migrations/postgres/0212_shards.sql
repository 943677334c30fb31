-- The scheduler processes over this database, each run of one by an id of its own. One that is gone never comes back: its
-- shards may be taken.
CREATE TABLE schedulers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    expires_at timestamptz NOT NULL,
    gone boolean NOT NULL DEFAULT FALSE
);
-- Agents are divided by the last six bits of their ids. The epoch grows whenever a shard is taken.
CREATE TABLE shards (
    shard integer PRIMARY KEY,
    epoch bigint NOT NULL,
    holder uuid
);
INSERT INTO shards (shard, epoch) SELECT shard, 0 FROM generate_series(0, 63) AS shard;

-- A column, since the wall around offices lets no index go by an expression of functions that may tell of what they see. It
-- rewrites the table, which has a row an agent. The index agents_by_next_look stays: schedulers of before go by it until they
-- are replaced.
ALTER TABLE agents ADD COLUMN shard integer NOT NULL GENERATED ALWAYS AS (get_byte(uuid_send(id), 15) & 63) STORED;
CREATE INDEX agents_by_shard ON agents (shard, next_look_at, id) WHERE next_look_at IS NOT NULL;
