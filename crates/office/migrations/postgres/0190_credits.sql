-- What an office has, in micro-credits: the sum of its ledger, and how many entries that has. Its lock orders the entries.
CREATE TABLE balances (
    office_id uuid PRIMARY KEY REFERENCES offices (id),
    balance   bigint NOT NULL,
    entries   bigint NOT NULL
);
INSERT INTO balances (office_id, balance, entries) SELECT id, 0, 0 FROM offices;

-- Entries are only added. A request keeps its key here, for as long as there is the office: what it wrote is written once.
CREATE TABLE ledger_entries (
    office_id      uuid NOT NULL REFERENCES balances (office_id),
    seq            bigint NOT NULL,
    id             uuid NOT NULL,
    amount         bigint NOT NULL,
    balance_after  bigint NOT NULL,
    reason         text NOT NULL,
    reference      text NOT NULL,
    entered_at     timestamptz NOT NULL,
    request_key    text,
    request_digest bytea,
    PRIMARY KEY (office_id, seq)
);
CREATE UNIQUE INDEX ledger_entries_by_request ON ledger_entries (office_id, request_key) WHERE request_key IS NOT NULL;

SELECT office_wall('balances', 'office_id');
SELECT office_wall('ledger_entries', 'office_id');
