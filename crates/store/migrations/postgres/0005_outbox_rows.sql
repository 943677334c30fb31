-- A row holds the events of a whole transaction, and is read and deleted moments later: to compress it costs more than it saves.
-- What fits into a page stays in it.
ALTER TABLE outbox ALTER COLUMN event SET STORAGE EXTERNAL;
ALTER TABLE outbox SET (toast_tuple_target = 8160);
