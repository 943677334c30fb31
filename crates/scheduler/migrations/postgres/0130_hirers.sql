-- Whom an agent hired: they get another hirer when it is fired.
CREATE INDEX agents_by_hirer ON agents (office_id, hired_by) WHERE hired_by <> '';
