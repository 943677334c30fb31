-- Keys that agents held and that are dead: who tries one is told apart from who guesses, and none is enrolled again.
CREATE TABLE former_keys (
    agent_id   uuid NOT NULL,
    key_id     text NOT NULL,
    office_id  uuid NOT NULL,
    agent      text NOT NULL,
    revoked_at timestamptz NOT NULL,
    PRIMARY KEY (agent_id, key_id)
);
CREATE INDEX former_keys_by_time ON former_keys (revoked_at);
CREATE INDEX former_keys_by_office ON former_keys (office_id);

-- A token is looked up before anybody knows whose it is.
CREATE UNIQUE INDEX agents_by_token ON agents (enrol_sha256) WHERE enrol_sha256 IS NOT NULL;
SELECT office_wall('former_keys', 'office_id');
