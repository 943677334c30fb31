-- Offices have their queue from the beginning.
INSERT INTO task_queues (office_id, cursor) SELECT id, 0 FROM offices WHERE TRUE ON CONFLICT (office_id) DO NOTHING;
