-- One row: the master key that wraps data keys from now on.
CREATE TABLE master_key (
    one    integer PRIMARY KEY CHECK (one = 1),
    key_id text NOT NULL
);

-- The key that seals an office's secrets, wrapped by the master key that the row names. Without the row, the secrets are
-- noise.
CREATE TABLE office_keys (
    office_id     uuid PRIMARY KEY REFERENCES offices (id),
    master_key_id text NOT NULL,
    wrapped       bytea NOT NULL
);
CREATE INDEX office_keys_by_master ON office_keys (master_key_id, office_id);

CREATE TABLE integration_secrets (
    office_id   uuid NOT NULL REFERENCES office_keys (office_id),
    integration text NOT NULL,
    name        text NOT NULL,
    sealed      bytea NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (office_id, integration, name)
);

SELECT office_wall('office_keys', 'office_id');
SELECT office_wall('integration_secrets', 'office_id');
