-- The second wall: a row of an office is there for its office and for the platform, and for nobody while no scope is
-- set. `FORCE` includes the tables' owner. The sub-selects are evaluated once for a statement, not for each row.
--
-- Every migration that makes a table of offices' rows calls this for it; opening the database checks that.
CREATE FUNCTION office_wall(walled regclass, office name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    visible text := format(
        '%I = (SELECT nullif(nullif(current_setting(''mi.scope'', true), ''''), ''platform'')::uuid) '
        'OR (SELECT current_setting(''mi.scope'', true)) = ''platform''', office);
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', walled);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', walled);
    EXECUTE format('CREATE POLICY office_wall ON %s USING (%s) WITH CHECK (%s)', walled, visible, visible);
END $$;

SELECT office_wall('outbox', 'office_id');
