-- Each feed is a chain: an event has the hash of the one before and its own. The office's row has both ends: the newest
-- event's hash, and cursor and hash of the newest event that is not there any more. Events from before this step have
-- no hashes; the chain begins after them.
ALTER TABLE events ADD COLUMN prev_hash BLOB NOT NULL DEFAULT x'';
ALTER TABLE events ADD COLUMN hash BLOB NOT NULL DEFAULT x'';
ALTER TABLE offices ADD COLUMN head_hash BLOB NOT NULL DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000';
ALTER TABLE offices ADD COLUMN anchor_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE offices ADD COLUMN anchor_hash BLOB NOT NULL DEFAULT x'0000000000000000000000000000000000000000000000000000000000000000';
UPDATE offices SET anchor_seq = next_seq - 1;
