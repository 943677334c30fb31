-- What the office role told: why the office's credits do not suffice for an agent, which is shown with it.
ALTER TABLE agents ADD COLUMN broke text NOT NULL DEFAULT '';
