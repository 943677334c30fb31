-- Only hashes of codes. Which invite was used is the scheduler's to know, in one transaction with the agent.
CREATE TABLE invites (
    id          uuid PRIMARY KEY,
    office_id   uuid NOT NULL REFERENCES offices (id),
    code_sha256 bytea NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL
);
CREATE INDEX invites_by_office ON invites (office_id, expires_at);
CREATE INDEX invites_by_end ON invites (expires_at);
SELECT office_wall('invites', 'office_id');
