-- What is set aside of a balance for calls under way, and whether it was told that nothing is left.
ALTER TABLE balances ADD COLUMN reserved bigint NOT NULL DEFAULT 0;
ALTER TABLE balances ADD COLUMN exhausted boolean NOT NULL DEFAULT FALSE;

-- What is set aside for a call. One that ended and is in no ledger is remembered here for a while, so that it is not begun
-- again, and one that nobody settled in time, so that whoever knows what it cost corrects it: `amount` is what was debited.
CREATE TABLE reservations (
    office_id  uuid NOT NULL REFERENCES balances (office_id),
    call_id    uuid NOT NULL,
    agent_id   uuid NOT NULL,
    agent      text NOT NULL,
    lineage    json NOT NULL,
    task_id    uuid,
    root_id    uuid,
    provider   text NOT NULL,
    model      text NOT NULL,
    amount     bigint NOT NULL,
    settled    boolean NOT NULL,
    expired    boolean NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (office_id, call_id)
);
CREATE INDEX reservations_due ON reservations (expires_at, office_id, call_id);

-- What an agent spent with all agents below it, and what it may. Lineage: its hirer, the hirer's hirer and so on. What the
-- scheduler does not know yet has a version above the told one. An agent sets no budget above the one that an operator set
-- last. Seen until then, it ran for as many milliseconds as are not charged yet.
CREATE TABLE agent_accounts (
    office_id       uuid NOT NULL REFERENCES balances (office_id),
    agent_id        uuid NOT NULL,
    name            text NOT NULL,
    lineage         json NOT NULL,
    budget          bigint,
    operator_budget bigint,
    spent           bigint NOT NULL,
    reserved        bigint NOT NULL,
    reached         text NOT NULL,
    version         bigint NOT NULL,
    told_version    bigint NOT NULL,
    seen_until      timestamptz,
    unpaid_ms       bigint NOT NULL,
    PRIMARY KEY (office_id, agent_id)
);
CREATE INDEX agent_accounts_untold ON agent_accounts (office_id, agent_id) WHERE told_version < version;
CREATE INDEX agent_accounts_reached ON agent_accounts (office_id, agent_id) WHERE reached <> '';
CREATE INDEX agent_accounts_limited ON agent_accounts (office_id, name, agent_id) WHERE budget IS NOT NULL;

-- What a task cost, and with its whole tree what one without a parent did.
CREATE TABLE task_costs (
    office_id     uuid NOT NULL REFERENCES balances (office_id),
    task_id       uuid NOT NULL,
    spent         bigint NOT NULL,
    tree_spent    bigint NOT NULL,
    tree_reserved bigint NOT NULL,
    PRIMARY KEY (office_id, task_id)
);

-- What was used in an hour, by agent, by model, and by the task at the top of the tree.
CREATE TABLE usages (
    office_id     uuid NOT NULL REFERENCES balances (office_id),
    kind          text NOT NULL,
    hour          timestamptz NOT NULL,
    key           text NOT NULL,
    amount        bigint NOT NULL,
    input_tokens  bigint NOT NULL,
    output_tokens bigint NOT NULL,
    calls         bigint NOT NULL,
    PRIMARY KEY (office_id, kind, hour, key)
);

-- What an office was given to begin with out of its account's allowance, and what of that is given out. Offices of before
-- get what a new one does when a process starts that knows how much that is: they have not begun.
ALTER TABLE balances ADD COLUMN taken bigint NOT NULL DEFAULT 0;
ALTER TABLE balances ADD COLUMN begun boolean NOT NULL DEFAULT FALSE;
CREATE INDEX balances_unbegun ON balances (office_id) WHERE NOT begun;
ALTER TABLE accounts ADD COLUMN credits_taken bigint NOT NULL DEFAULT 0;

-- What older versions stored there without heeding it would refuse calls. Settings are told anew: other roles did not keep
-- all of them.
UPDATE offices SET settings = jsonb_set(settings, '{model_budget_per_task}', '0')
    WHERE (settings ->> 'model_budget_per_task')::numeric BETWEEN 1 AND 999;
UPDATE offices SET version = version + 1 WHERE state <> 'deleting';

SELECT office_wall('reservations', 'office_id');
SELECT office_wall('agent_accounts', 'office_id');
SELECT office_wall('task_costs', 'office_id');
SELECT office_wall('usages', 'office_id');

-- As before, with what the office may spend.
DROP FUNCTION queue_open (uuid);
CREATE FUNCTION queue_open(of_office uuid)
    RETURNS TABLE (newest bigint, tally json, office offices, told timestamptz, swept_at timestamptz, away bigint,
        back_at timestamptz, available bigint)
    LANGUAGE plpgsql AS $$
DECLARE
    place bigint;
    standing json;
BEGIN
    SELECT cursor, counts INTO place, standing FROM task_queues WHERE office_id = of_office FOR NO KEY UPDATE;
    IF FOUND THEN
        -- A statement of its own: it sees what was committed while the one above waited, and a lease begins when it is
        -- given.
        RETURN QUERY SELECT place, standing, o, clock_timestamp(), s.swept_at, s.away, s.back_at, b.balance - b.reserved
            FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
            WHERE o.id = of_office AND s.id = 1;
    END IF;
END
$$;
