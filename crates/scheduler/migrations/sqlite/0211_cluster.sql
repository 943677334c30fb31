-- What keeps an agent from where it should be, as last seen.
ALTER TABLE agents ADD COLUMN trouble TEXT NOT NULL DEFAULT '';
-- This installation, and the cluster that its agents live in: one row.
CREATE TABLE cluster (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    installation BLOB NOT NULL,
    -- The uid of the cluster; none: agents never lived in one.
    uid TEXT
) STRICT;
