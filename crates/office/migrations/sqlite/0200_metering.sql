-- What is set aside of a balance for calls under way, and whether it was told that nothing is left.
ALTER TABLE balances ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE balances ADD COLUMN exhausted INTEGER NOT NULL DEFAULT FALSE;

-- What is set aside for a call. A call that cost nothing is remembered here for a while, so that it is not begun again.
CREATE TABLE reservations (
    office_id  BLOB NOT NULL REFERENCES balances (office_id),
    call_id    BLOB NOT NULL,
    agent_id   BLOB NOT NULL,
    agent      TEXT NOT NULL,
    lineage    TEXT NOT NULL,
    task_id    BLOB,
    root_id    BLOB,
    provider   TEXT NOT NULL,
    model      TEXT NOT NULL,
    amount     INTEGER NOT NULL,
    settled    INTEGER NOT NULL,
    expires_at TEXT NOT NULL,
    PRIMARY KEY (office_id, call_id)
) STRICT;
CREATE INDEX reservations_due ON reservations (expires_at);

-- What an agent spent with all agents below it, and what it may. Lineage: its hirer, the hirer's hirer and so on. What the
-- scheduler does not know yet has a version above the told one.
CREATE TABLE agent_accounts (
    office_id     BLOB NOT NULL REFERENCES balances (office_id),
    agent_id      BLOB NOT NULL,
    name          TEXT NOT NULL,
    lineage       TEXT NOT NULL,
    budget        INTEGER,
    spent         INTEGER NOT NULL,
    reserved      INTEGER NOT NULL,
    reached       TEXT NOT NULL,
    version       INTEGER NOT NULL,
    told_version  INTEGER NOT NULL,
    charged_until TEXT,
    PRIMARY KEY (office_id, agent_id)
) STRICT;
CREATE INDEX agent_accounts_untold ON agent_accounts (office_id, agent_id) WHERE told_version < version;
CREATE INDEX agent_accounts_reached ON agent_accounts (office_id, agent_id) WHERE reached <> '';

-- What a task cost, and with its whole tree what one without a parent did.
CREATE TABLE task_costs (
    office_id     BLOB NOT NULL REFERENCES balances (office_id),
    task_id       BLOB NOT NULL,
    spent         INTEGER NOT NULL,
    tree_spent    INTEGER NOT NULL,
    tree_reserved INTEGER NOT NULL,
    PRIMARY KEY (office_id, task_id)
) STRICT;

-- What was used in an hour, by agent, by model, and by the task at the top of the tree.
CREATE TABLE usages (
    office_id     BLOB NOT NULL REFERENCES balances (office_id),
    kind          TEXT NOT NULL,
    hour          TEXT NOT NULL,
    key           TEXT NOT NULL,
    amount        INTEGER NOT NULL,
    input_tokens  INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    calls         INTEGER NOT NULL,
    PRIMARY KEY (office_id, kind, hour, key)
) STRICT;

-- What an office was given to begin with out of its account's allowance, and what of that is given out. Offices of before
-- get what a new one does: their own id names the entry.
ALTER TABLE balances ADD COLUMN taken INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN credits_taken INTEGER NOT NULL DEFAULT 0;
INSERT INTO ledger_entries (office_id, seq, id, amount, balance_after, reason, reference, entered_at)
SELECT office_id, entries + 1, office_id, 10000000, balance + 10000000, 'starting balance', 'start', strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now') FROM balances;
UPDATE balances SET balance = balance + 10000000, entries = entries + 1,
    taken = CASE WHEN office_id IN (SELECT o.id FROM offices AS o JOIN accounts AS a ON a.id = o.account_id
        WHERE a.administrator = 1) THEN 0 ELSE 10000000 END;
UPDATE accounts SET credits_taken = (
    SELECT coalesce(sum(b.taken), 0) FROM balances AS b JOIN offices AS o ON o.id = b.office_id
    WHERE o.account_id = accounts.id);
