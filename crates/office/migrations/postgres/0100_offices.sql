CREATE TABLE accounts (
    id            uuid PRIMARY KEY,
    name          text NOT NULL,
    administrator boolean NOT NULL,
    created_at    timestamptz NOT NULL
);
CREATE UNIQUE INDEX accounts_one_administrator ON accounts (administrator) WHERE administrator;

CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts (id),
    name       text NOT NULL,
    prefix     text NOT NULL,
    sha256     bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX api_keys_by_account ON api_keys (account_id, id);

CREATE TABLE offices (
    id              uuid PRIMARY KEY,
    account_id      uuid NOT NULL REFERENCES accounts (id),
    name            text NOT NULL,
    state           text NOT NULL,
    settings        jsonb NOT NULL,
    version         bigint NOT NULL,
    applied_version bigint NOT NULL,
    conditions      jsonb NOT NULL,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);
CREATE INDEX offices_by_account ON offices (account_id, id);
CREATE INDEX offices_unfinished ON offices (id) WHERE applied_version < version;
