-- A change of a roster is told once: whoever asks says which transactions it saw the last time, and is told of what others
-- have added. A row a change, since one that stood for several would be seen before the last of them. That of a transaction
-- that the version before notes gets its own number, too.
ALTER TABLE roster_changes ADD COLUMN changed_in xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX roster_changes_by_transaction ON roster_changes (changed_in, office_id);

CREATE OR REPLACE FUNCTION roster_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO roster_changes (office_id, changed_ms)
    VALUES (COALESCE(NEW.office_id, OLD.office_id), extract(epoch FROM clock_timestamp()) * 1000);
    RETURN NULL;
END $$;
