-- The scheduler's copy of what it needs to know of an office; the office role owns the original.
CREATE TABLE offices (
    id         BLOB PRIMARY KEY,
    account_id BLOB NOT NULL,
    version    INTEGER NOT NULL,
    active     INTEGER NOT NULL,
    removing   INTEGER NOT NULL,
    settings   TEXT NOT NULL
) STRICT;

-- Offices that were removed: a push of one that is still on its way must not bring it back.
CREATE TABLE removed_offices (
    id BLOB PRIMARY KEY
) STRICT;

CREATE TABLE agents (
    id                  BLOB PRIMARY KEY,
    office_id           BLOB NOT NULL REFERENCES offices (id),
    name                TEXT NOT NULL,
    hired_by            TEXT NOT NULL,
    lineage             TEXT NOT NULL,
    spec                TEXT NOT NULL,
    desired             TEXT NOT NULL,
    generation          INTEGER NOT NULL,
    restore_from        BLOB,
    state               TEXT NOT NULL,
    phase               TEXT NOT NULL,
    failures            INTEGER NOT NULL,
    restarts            INTEGER NOT NULL,
    observed_generation INTEGER NOT NULL,
    public_key          BLOB,
    enrol_sha256        BLOB,
    enrol_expires_at    TEXT,
    last_seen_at        TEXT,
    revision            INTEGER NOT NULL,
    created_at          TEXT NOT NULL,
    UNIQUE (office_id, name)
) STRICT;

-- Hires by agents, for the rate limit; kept after the hired agent is gone.
CREATE TABLE hires (
    agent_id   BLOB PRIMARY KEY,
    office_id  BLOB NOT NULL,
    hired_at   TEXT NOT NULL
) STRICT;
CREATE INDEX hires_by_time ON hires (office_id, hired_at);

CREATE TABLE backups (
    id         BLOB PRIMARY KEY,
    office_id  BLOB NOT NULL,
    agent      TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256     TEXT NOT NULL,
    removed    INTEGER NOT NULL,
    created_at TEXT NOT NULL
) STRICT;
CREATE INDEX backups_by_office ON backups (office_id, id);
CREATE INDEX backups_removed ON backups (id) WHERE removed;
