-- One row an office that ever had a message: its lock orders the senders, so that `seq` grows in the order of commits.
CREATE TABLE chats (
    office_id BLOB PRIMARY KEY REFERENCES offices (id),
    seq       INTEGER NOT NULL,
    last_id   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- An operator has no id here, and the group neither name nor id. Names are what people ask by; an agent's own messages are
-- found by its id, since another one may bear its name later.
CREATE TABLE messages (
    office_id    BLOB NOT NULL REFERENCES chats (office_id),
    seq          INTEGER NOT NULL,
    id           BLOB NOT NULL,
    sender       TEXT NOT NULL,
    sender_id    BLOB,
    recipient    TEXT NOT NULL,
    recipient_id BLOB,
    body         TEXT NOT NULL,
    cause        TEXT NOT NULL,
    depth        INTEGER NOT NULL,
    sent_at      TEXT NOT NULL,
    PRIMARY KEY (office_id, seq)
) STRICT;
CREATE UNIQUE INDEX messages_by_id ON messages (office_id, id);
CREATE INDEX messages_by_recipient ON messages (office_id, recipient, seq);
CREATE INDEX messages_by_sender ON messages (office_id, sender, seq) WHERE recipient <> '';
