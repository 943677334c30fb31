-- One row an office that ever had a message: its lock orders the senders, so that `seq` grows in the order of commits.
CREATE TABLE chats (
    office_id uuid PRIMARY KEY REFERENCES offices (id),
    seq       bigint NOT NULL,
    last_id   uuid NOT NULL
);

-- An operator has no id here, and the group neither name nor id. Names are what people ask by; an agent's own messages are
-- found by its id, since another one may bear its name later.
CREATE TABLE messages (
    office_id    uuid NOT NULL REFERENCES chats (office_id),
    seq          bigint NOT NULL,
    id           uuid NOT NULL,
    sender       text NOT NULL,
    sender_id    uuid,
    recipient    text NOT NULL,
    recipient_id uuid,
    body         text NOT NULL,
    cause        text NOT NULL,
    depth        integer NOT NULL,
    sent_at      timestamptz NOT NULL,
    PRIMARY KEY (office_id, seq)
);
CREATE UNIQUE INDEX messages_by_id ON messages (office_id, id);
CREATE INDEX messages_by_recipient ON messages (office_id, recipient, seq);
CREATE INDEX messages_by_sender ON messages (office_id, sender, seq) WHERE recipient <> '';

SELECT office_wall('chats', 'office_id');
SELECT office_wall('messages', 'office_id');
