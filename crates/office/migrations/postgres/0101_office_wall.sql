-- Accounts and their keys stay outside: they are above offices.
SELECT office_wall('offices', 'id');
