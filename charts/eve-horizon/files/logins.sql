-- The logins of the processes, made by the database's owner; the roles are there since `eve migrate`.
-- psql reads the three passwords, each twice, from standard input.
--
-- Replicas start at the same time, and a role that two change at once is an error.
SELECT pg_advisory_lock(hashtextextended('eve logins', 0)) \g /dev/null
SELECT format('CREATE ROLE %I LOGIN %s', name, inherit)
  FROM (VALUES ('eve_cp', 'NOINHERIT'), ('eve_pool', 'NOINHERIT'), ('eve_keda', 'INHERIT')) logins (name, inherit)
 WHERE to_regrole(name) IS NULL
\gexec
SET client_min_messages = warning;
GRANT eve_control TO eve_cp;
GRANT eve_worker TO eve_pool;
GRANT eve_metrics TO eve_keda;
\password eve_cp
\password eve_pool
\password eve_keda
