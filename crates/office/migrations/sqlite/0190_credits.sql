-- What an office has, in micro-credits: the sum of its ledger, and how many entries that has. Its lock orders the entries.
CREATE TABLE balances (
    office_id BLOB PRIMARY KEY REFERENCES offices (id),
    balance   INTEGER NOT NULL,
    entries   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO balances (office_id, balance, entries) SELECT id, 0, 0 FROM offices;

-- Entries are only added. A request keeps its key here, for as long as there is the office: what it wrote is written once.
CREATE TABLE ledger_entries (
    office_id      BLOB NOT NULL REFERENCES balances (office_id),
    seq            INTEGER NOT NULL,
    id             BLOB NOT NULL,
    amount         INTEGER NOT NULL,
    balance_after  INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    reference      TEXT NOT NULL,
    entered_at     TEXT NOT NULL,
    request_key    TEXT,
    request_digest BLOB,
    PRIMARY KEY (office_id, seq)
) STRICT;
CREATE UNIQUE INDEX ledger_entries_by_request ON ledger_entries (office_id, request_key) WHERE request_key IS NOT NULL;
