-- Only hashes of codes. Which invite was used is the scheduler's to know, in one transaction with the agent.
CREATE TABLE invites (
    id          BLOB PRIMARY KEY,
    office_id   BLOB NOT NULL REFERENCES offices (id),
    code_sha256 BLOB NOT NULL UNIQUE,
    created_at  TEXT NOT NULL,
    expires_at  TEXT NOT NULL
) STRICT;
CREATE INDEX invites_by_office ON invites (office_id, expires_at);
CREATE INDEX invites_by_end ON invites (expires_at);
