-- Whose key is or was whose: a key is one agent's on the whole installation, and stays here when it dies. Where two agents
-- had the same one before there was this table, both keep it, and the older one is named.
CREATE TABLE agent_keys (
    public_key bytea NOT NULL PRIMARY KEY,
    office_id  uuid NOT NULL,
    agent_id   uuid NOT NULL
);
CREATE INDEX agent_keys_by_office ON agent_keys (office_id);
INSERT INTO agent_keys (public_key, office_id, agent_id)
SELECT public_key, office_id, id FROM agents WHERE public_key IS NOT NULL ORDER BY created_at, id
ON CONFLICT (public_key) DO NOTHING;

-- Keys that died earlier are known by their ids alone.
CREATE INDEX former_keys_by_key ON former_keys (key_id);
SELECT office_wall('agent_keys', 'office_id');
