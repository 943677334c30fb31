-- A change of a roster is told once: whoever asks says how far it read the last time. A row a change, since one that stood for
-- several would be read before the last of them. Positions are never given again.
DROP TRIGGER roster_grows;
DROP TRIGGER roster_shrinks;
DROP TRIGGER roster_changes;
DROP TABLE roster_changes;

CREATE TABLE roster_changes (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    office_id  BLOB NOT NULL,
    changed_ms INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;
CREATE INDEX roster_changes_by_time ON roster_changes (changed_ms, office_id);
CREATE INDEX roster_changes_by_office ON roster_changes (office_id, changed_ms);

CREATE TRIGGER roster_grows AFTER INSERT ON agents BEGIN
    INSERT INTO roster_changes (office_id) VALUES (NEW.office_id);
END;
CREATE TRIGGER roster_shrinks AFTER DELETE ON agents BEGIN
    INSERT INTO roster_changes (office_id) VALUES (OLD.office_id);
END;
CREATE TRIGGER roster_changes AFTER UPDATE OF name, spec, desired, state, public_key, external, has_model ON agents
WHEN OLD.name IS NOT NEW.name OR OLD.spec IS NOT NEW.spec OR OLD.desired IS NOT NEW.desired OR OLD.state IS NOT NEW.state
    OR OLD.public_key IS NOT NEW.public_key OR OLD.external IS NOT NEW.external OR OLD.has_model IS NOT NEW.has_model
BEGIN
    INSERT INTO roster_changes (office_id) VALUES (NEW.office_id);
END;
