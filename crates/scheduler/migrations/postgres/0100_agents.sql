-- The scheduler's copy of what it needs to know of an office; the office role owns the original.
CREATE TABLE offices (
    id         uuid PRIMARY KEY,
    account_id uuid NOT NULL,
    version    bigint NOT NULL,
    active     boolean NOT NULL,
    removing   boolean NOT NULL,
    settings   jsonb NOT NULL
);

-- Offices that were removed: a push of one that is still on its way must not bring it back.
CREATE TABLE removed_offices (
    id uuid PRIMARY KEY
);

CREATE TABLE agents (
    id                  uuid PRIMARY KEY,
    office_id           uuid NOT NULL REFERENCES offices (id),
    name                text NOT NULL,
    hired_by            text NOT NULL,
    lineage             jsonb NOT NULL,
    spec                jsonb NOT NULL,
    desired             jsonb NOT NULL,
    generation          bigint NOT NULL,
    restore_from        uuid,
    state               jsonb NOT NULL,
    phase               text NOT NULL,
    failures            integer NOT NULL,
    restarts            integer NOT NULL,
    observed_generation bigint NOT NULL,
    public_key          bytea,
    enrol_sha256        bytea,
    enrol_expires_at    timestamptz,
    last_seen_at        timestamptz,
    revision            bigint NOT NULL,
    created_at          timestamptz NOT NULL,
    UNIQUE (office_id, name)
);

-- Hires by agents, for the rate limit; kept after the hired agent is gone.
CREATE TABLE hires (
    agent_id   uuid PRIMARY KEY,
    office_id  uuid NOT NULL,
    hired_at   timestamptz NOT NULL
);
CREATE INDEX hires_by_time ON hires (office_id, hired_at);

CREATE TABLE backups (
    id         uuid PRIMARY KEY,
    office_id  uuid NOT NULL,
    agent      text NOT NULL,
    size_bytes bigint NOT NULL,
    sha256     text NOT NULL,
    removed    boolean NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX backups_by_office ON backups (office_id, id);
CREATE INDEX backups_removed ON backups (id) WHERE removed;
