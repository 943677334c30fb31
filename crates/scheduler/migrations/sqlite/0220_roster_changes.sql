-- Which offices' agents changed lately, as the task queue knows agents: it asks about all offices at once, instead of about
-- each one. One row serves an office for ten seconds. By the database's own clock, in Unix milliseconds.
CREATE TABLE roster_changes (
    office_id  BLOB NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX roster_changes_by_time ON roster_changes (changed_ms, office_id);
CREATE INDEX roster_changes_by_office ON roster_changes (office_id, changed_ms);

CREATE TRIGGER roster_grows AFTER INSERT ON agents BEGIN
    INSERT INTO roster_changes (office_id, changed_ms)
    SELECT NEW.office_id, CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE NOT EXISTS (SELECT 1 FROM roster_changes
        WHERE office_id = NEW.office_id AND changed_ms > unixepoch('subsec') * 1000 - 10000);
END;
CREATE TRIGGER roster_shrinks AFTER DELETE ON agents BEGIN
    INSERT INTO roster_changes (office_id, changed_ms)
    SELECT OLD.office_id, CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE NOT EXISTS (SELECT 1 FROM roster_changes
        WHERE office_id = OLD.office_id AND changed_ms > unixepoch('subsec') * 1000 - 10000);
END;
CREATE TRIGGER roster_changes AFTER UPDATE OF name, spec, desired, state, public_key, external, has_model ON agents
WHEN OLD.name IS NOT NEW.name OR OLD.spec IS NOT NEW.spec OR OLD.desired IS NOT NEW.desired OR OLD.state IS NOT NEW.state
    OR OLD.public_key IS NOT NEW.public_key OR OLD.external IS NOT NEW.external OR OLD.has_model IS NOT NEW.has_model
BEGIN
    INSERT INTO roster_changes (office_id, changed_ms)
    SELECT NEW.office_id, CAST(unixepoch('subsec') * 1000 AS INTEGER)
    WHERE NOT EXISTS (SELECT 1 FROM roster_changes
        WHERE office_id = NEW.office_id AND changed_ms > unixepoch('subsec') * 1000 - 10000);
END;
