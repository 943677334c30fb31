-- What every service keeps beside its own tables.
CREATE TABLE outbox (
    position   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event      jsonb NOT NULL
);

CREATE TABLE idempotency (
    scope      text NOT NULL,
    request_id text NOT NULL,
    digest     bytea NOT NULL,
    resource   uuid NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (scope, request_id)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE leases (
    name       text PRIMARY KEY,
    holder     text NOT NULL,
    expires_at timestamptz NOT NULL
);
