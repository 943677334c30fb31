CREATE TABLE accounts (
    id            BLOB PRIMARY KEY,
    name          TEXT NOT NULL,
    administrator INTEGER NOT NULL,
    created_at    TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX accounts_one_administrator ON accounts (administrator) WHERE administrator = 1;

CREATE TABLE api_keys (
    id         BLOB PRIMARY KEY,
    account_id BLOB NOT NULL REFERENCES accounts (id),
    name       TEXT NOT NULL,
    prefix     TEXT NOT NULL,
    sha256     BLOB NOT NULL UNIQUE,
    created_at TEXT NOT NULL,
    revoked_at TEXT
) STRICT;
CREATE INDEX api_keys_by_account ON api_keys (account_id, id);

CREATE TABLE offices (
    id              BLOB PRIMARY KEY,
    account_id      BLOB NOT NULL REFERENCES accounts (id),
    name            TEXT NOT NULL,
    state           TEXT NOT NULL,
    settings        TEXT NOT NULL,
    version         INTEGER NOT NULL,
    applied_version INTEGER NOT NULL,
    conditions      TEXT NOT NULL,
    created_at      TEXT NOT NULL,
    updated_at      TEXT NOT NULL
) STRICT;
CREATE INDEX offices_by_account ON offices (account_id, id);
CREATE INDEX offices_unfinished ON offices (id) WHERE applied_version < version;
