SELECT office_wall('offices', 'office_id');
SELECT office_wall('events', 'office_id');
SELECT office_wall('log_streams', 'office_id');
SELECT office_wall('log_tail', 'office_id');
SELECT office_wall('log_segments', 'office_id');
