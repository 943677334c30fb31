-- Offices that let something be deleted after a time, and when they are next looked at.
CREATE TABLE office_retentions (
    office_id BLOB PRIMARY KEY REFERENCES offices (id),
    due_at    TEXT NOT NULL
) STRICT;
CREATE INDEX office_retentions_due ON office_retentions (due_at);

-- The newest change of a task that is deleted by now: who watches from a place before it would miss that.
ALTER TABLE task_queues ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
