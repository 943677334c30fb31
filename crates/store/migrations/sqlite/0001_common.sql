-- What every service keeps beside its own tables.
CREATE TABLE outbox (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    event      TEXT NOT NULL
) STRICT;

CREATE TABLE idempotency (
    scope      TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest     BLOB NOT NULL,
    resource   BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (scope, request_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    expires_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;
