SELECT office_wall('offices', 'id');
SELECT office_wall('removed_offices', 'id');
SELECT office_wall('agents', 'office_id');
SELECT office_wall('hires', 'office_id');
SELECT office_wall('backups', 'office_id');
