-- What is set aside of a balance for calls under way, and whether it was told that nothing is left.
ALTER TABLE balances ADD COLUMN reserved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE balances ADD COLUMN exhausted INTEGER NOT NULL DEFAULT FALSE;

-- What is set aside for a call. One that ended and is in no ledger is remembered here for a while, so that it is not begun
-- again, and one that nobody settled in time, so that whoever knows what it cost corrects it: `amount` is what was debited.
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
    expired    INTEGER NOT NULL,
    expires_at TEXT NOT NULL,
    PRIMARY KEY (office_id, call_id)
) STRICT;
CREATE INDEX reservations_due ON reservations (expires_at, office_id, call_id);

-- What an agent spent with all agents below it, and what it may. Lineage: its hirer, the hirer's hirer and so on. What the
-- scheduler does not know yet has a version above the told one. An agent sets no budget above the one that an operator set
-- last. Seen until then, it ran for as many milliseconds as are not charged yet.
CREATE TABLE agent_accounts (
    office_id       BLOB NOT NULL REFERENCES balances (office_id),
    agent_id        BLOB NOT NULL,
    name            TEXT NOT NULL,
    lineage         TEXT NOT NULL,
    budget          INTEGER,
    operator_budget INTEGER,
    spent           INTEGER NOT NULL,
    reserved        INTEGER NOT NULL,
    reached         TEXT NOT NULL,
    version         INTEGER NOT NULL,
    told_version    INTEGER NOT NULL,
    seen_until      TEXT,
    unpaid_ms       INTEGER NOT NULL,
    PRIMARY KEY (office_id, agent_id)
) STRICT;
CREATE INDEX agent_accounts_untold ON agent_accounts (office_id, agent_id) WHERE told_version < version;
CREATE INDEX agent_accounts_reached ON agent_accounts (office_id, agent_id) WHERE reached <> '';
CREATE INDEX agent_accounts_limited ON agent_accounts (office_id, name, agent_id) WHERE budget IS NOT NULL;

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
-- get what a new one does when a process starts that knows how much that is: they have not begun.
ALTER TABLE balances ADD COLUMN taken INTEGER NOT NULL DEFAULT 0;
ALTER TABLE balances ADD COLUMN begun INTEGER NOT NULL DEFAULT FALSE;
CREATE INDEX balances_unbegun ON balances (office_id) WHERE NOT begun;
ALTER TABLE accounts ADD COLUMN credits_taken INTEGER NOT NULL DEFAULT 0;

-- What older versions stored there without heeding it would refuse calls. Settings are told anew: other roles did not keep
-- all of them.
UPDATE offices SET settings = json_set(settings, '$.model_budget_per_task', 0)
    WHERE settings ->> '$.model_budget_per_task' BETWEEN 1 AND 999;
UPDATE offices SET version = version + 1 WHERE state <> 'deleting';
