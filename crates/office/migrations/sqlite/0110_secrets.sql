-- One row: the master key that wraps data keys from now on.
CREATE TABLE master_key (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    key_id TEXT NOT NULL
) STRICT;

-- The key that seals an office's secrets, wrapped by the master key that the row names. Without the row, the secrets are
-- noise.
CREATE TABLE office_keys (
    office_id     BLOB PRIMARY KEY REFERENCES offices (id),
    master_key_id TEXT NOT NULL,
    wrapped       BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX office_keys_by_master ON office_keys (master_key_id, office_id);

CREATE TABLE integration_secrets (
    office_id   BLOB NOT NULL REFERENCES office_keys (office_id),
    integration TEXT NOT NULL,
    name        TEXT NOT NULL,
    sealed      BLOB NOT NULL,
    updated_at  TEXT NOT NULL,
    PRIMARY KEY (office_id, integration, name)
) STRICT, WITHOUT ROWID;
