-- Which offices' agents changed lately, as the task queue knows agents: it asks about all offices at once, instead of about
-- each one. One row serves an office for ten seconds. By the database's own clock, in Unix milliseconds. Without a key: two
-- transactions that add the same row must not wait for each other.
CREATE TABLE roster_changes (
    office_id  uuid NOT NULL,
    changed_ms bigint NOT NULL
);
CREATE INDEX roster_changes_by_time ON roster_changes (changed_ms, office_id);
CREATE INDEX roster_changes_by_office ON roster_changes (office_id, changed_ms);
SELECT office_wall('roster_changes', 'office_id');

-- As the owner: processes of the version before have no right to this table until the last step was taken.
CREATE FUNCTION roster_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    changed uuid := COALESCE(NEW.office_id, OLD.office_id);
    now_ms bigint := extract(epoch FROM clock_timestamp()) * 1000;
BEGIN
    INSERT INTO roster_changes (office_id, changed_ms)
    SELECT changed, now_ms
    WHERE NOT EXISTS (SELECT 1 FROM roster_changes WHERE office_id = changed AND changed_ms > now_ms - 10000);
    RETURN NULL;
END $$;
CREATE TRIGGER roster_grows_or_shrinks AFTER INSERT OR DELETE ON agents
FOR EACH ROW EXECUTE FUNCTION roster_changed();
CREATE TRIGGER roster_changes AFTER UPDATE OF name, spec, desired, state, public_key, external, has_model ON agents
FOR EACH ROW WHEN ((OLD.name, OLD.spec, OLD.desired, OLD.state, OLD.public_key, OLD.external, OLD.has_model)
    IS DISTINCT FROM (NEW.name, NEW.spec, NEW.desired, NEW.state, NEW.public_key, NEW.external, NEW.has_model))
EXECUTE FUNCTION roster_changed();
