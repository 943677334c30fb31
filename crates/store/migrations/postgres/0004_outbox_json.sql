-- Events go in and out as text: nothing is asked of what is in them here, so nothing should be taken apart and put together.
ALTER TABLE outbox ALTER COLUMN event TYPE json;
