-- People who read the database themselves: Supabase lets whoever has signed in query it as the role
-- `authenticated`, with who they are in the settings of the request. They see the rows of their own
-- organisations, through grants by column, and change nothing. Then what a look at all the grants at
-- once has found to be wider than it need be.

-- Supabase has the role. Elsewhere it is made like ours, and nobody is a member of it.
DO $$
BEGIN
    IF to_regrole('authenticated') IS NULL THEN
        CREATE ROLE authenticated NOLOGIN NOINHERIT;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

-- Our stand-in for Supabase Auth reads what Supabase's own does: both settings that PostgREST has had.
DO $$
BEGIN
    IF obj_description(to_regnamespace('auth'), 'pg_namespace')
       = 'Stand-in for Supabase Auth, made by Eve Horizon'
    THEN
        CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid
            LANGUAGE sql STABLE
            RETURN coalesce(
                nullif(current_setting('request.jwt.claim.sub', true), ''),
                nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
            )::uuid;
    END IF;
END
$$;

-- The organisations in which the caller has one of these roles. It takes the person from the request,
-- never from its caller, and belongs to the owner, who may read `auth` and all memberships. Not in the
-- form that is parsed now: a dependency on Supabase's function would stand in the way of its upgrades.
CREATE FUNCTION eve.own_orgs(roles text[] DEFAULT '{owner,admin,member}') RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
    SELECT m.org_id
      FROM eve.org_members m
     WHERE m.user_id = (SELECT auth.uid())
       AND m.role = ANY (roles)
$$;
REVOKE ALL ON FUNCTION eve.own_orgs(text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.own_orgs(text[]) TO authenticated;
GRANT USAGE ON SCHEMA eve TO authenticated;

-- What members read, and what only admins do: as the API has it. The organisations are asked for once a
-- query, as an array, which an index can be searched by. Not granted is what the API does not show: the
-- engine's own tables, leases, and every hash, code, key and signature.
DO $$
DECLARE
    seen  record;
BEGIN
    FOR seen IN
        SELECT *
          FROM (VALUES
            ('organizations', '', 'id, slug, name, created_at'),
            ('org_members', '', 'org_id, user_id, role, created_at'),
            ('requests', '',
             'id, org_id, user_id, worker_type, skill, prompt, context, repo_url, branch, config, metadata,'
             ' reply_to, priority, max_attempts, timeout_ms, root_request_id, orchestration_id,'
             ' parent_request_id, parent_generation, detached, schedule, created_by, created_at'),
            ('queue', '',
             'id, org_id, worker_type, status, priority, generation, attempt, rescues, drains,'
             ' open_blockers, run_at, claimed_at, reply_to, wakes, orchestrates, wait_until'),
            ('orchestration_results', '',
             'request_id, org_id, status, generation, attempt, summary, data, error_code, error_message,'
             ' cancelled_by, tokens_used, cost, started_at, finished_at, duration_us, cpu_us,'
             ' memory_peak_bytes'),
            ('attempts', '',
             'request_id, id, org_id, generation, attempt, kind, code, message, started_at, ended_at,'
             ' duration_us, cpu_us, memory_peak_bytes, tokens_used, cost'),
            ('run_logs', '',
             'request_id, id, org_id, generation, attempt, lines, dropped, created_at'),
            ('dependencies', '',
             'org_id, blocker_id, dependent_id, on_failure, state, held_until, generation, created_at'),
            ('hitl_requests', '',
             'id, org_id, request_id, question, options, details, status, response, responded_by,'
             ' created_by, created_at, expires_at, ended_at'),
            ('schedules', '',
             'id, org_id, name, cron, timezone, template, overlap, paused, next_at, last_tick,'
             ' last_request, last_error, created_by, created_at'),
            ('schedule_ticks', '', 'schedule_id, tick, org_id, outcome, request_id, created_at'),
            ('skills', '', 'id, org_id, name, description, active_version, created_at, updated_at'),
            ('skill_versions', '',
             'id, org_id, skill_id, version, size_bytes, manifest, readme, imports, capabilities,'
             ' created_by, created_at'),
            ('skill_schemas', '', 'org_id, name, status, error, created_at, ready_at'),
            ('schema_approvals', '', 'org_id, skill_id, schema_name, approved_by, created_at'),
            ('skill_migrations', '',
             'org_id, schema_name, number, name, status, request_id, started_at, applied_at'),
            ('api_tokens', '''{owner,admin}''',
             'id, org_id, user_id, name, prefix, role, scopes, created_by, created_at, expires_at,'
             ' revoked_at, last_used_at'),
            ('audit_log', '''{owner,admin}''', 'id, org_id, actor, action, target, details, created_at')
          ) AS t (name, roles, columns)
    LOOP
        EXECUTE format(
            'CREATE POLICY person ON eve.%I FOR SELECT TO authenticated'
            ' USING (%I = ANY (ARRAY(SELECT eve.own_orgs(%s))))',
            seen.name, CASE seen.name WHEN 'organizations' THEN 'id' ELSE 'org_id' END, seen.roles);
        EXECUTE format('GRANT SELECT (%s) ON eve.%I TO authenticated', seen.columns, seen.name);
    END LOOP;
END
$$;

-- Where nobody's organisation is set nobody sees anything, the platform's skills included.
ALTER POLICY platform ON eve.skills
    USING (org_id = '00000000-0000-0000-0000-000000000000'
           AND (SELECT nullif(current_setting('eve.org_id', true), '')::uuid) IS NOT NULL);
ALTER POLICY platform ON eve.skill_versions
    USING (org_id = '00000000-0000-0000-0000-000000000000'
           AND (SELECT nullif(current_setting('eve.org_id', true), '')::uuid) IS NOT NULL);

-- The engine's role is what a stolen worker's login can switch to. It writes to the audit log and has no
-- reason to read what everybody did; of an organisation it needs the short name; keys are reserved by
-- tenants and guests.
REVOKE SELECT ON eve.audit_log FROM eve_engine, eve_control;
REVOKE SELECT ON eve.organizations FROM eve_engine;
GRANT SELECT (id, slug) ON eve.organizations TO eve_engine;
REVOKE SELECT, INSERT ON eve.idempotency_keys FROM eve_engine;
DROP POLICY engine ON eve.idempotency_keys;

-- A version never changes, and a token is made for a tenant and revoked, not removed. The control plane
-- reads skills to compile them, and writes what comes of it.
REVOKE UPDATE ON eve.skill_versions FROM eve_tenant, eve_control;
REVOKE DELETE ON eve.api_tokens FROM eve_tenant;
REVOKE INSERT ON eve.api_tokens FROM eve_control;
REVOKE INSERT, DELETE ON eve.skill_versions FROM eve_control;
REVOKE INSERT, UPDATE, DELETE ON eve.skills FROM eve_control;
REVOKE UPDATE, DELETE ON eve.artifacts FROM eve_control;

-- What a schema is approved for is for admins to say, never for a run.
DROP POLICY guest ON eve.schema_approvals;
CREATE POLICY guest ON eve.schema_approvals FOR SELECT TO eve_guest
    USING (org_id = (SELECT nullif(current_setting('eve.org_id', true), '')::uuid));

-- Functions are for everybody unless somebody says otherwise, and now there is somebody in the schema who
-- is not ours.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA eve FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.uuid_at(timestamptz), eve.uuid_floor(uuid), eve.day_begins(date)
   TO eve_control, eve_tenant, eve_guest, eve_engine, eve_views;
-- What finds expired days runs as whoever calls it.
GRANT EXECUTE ON FUNCTION eve.retention_cutoff(interval) TO eve_engine;

-- On Supabase what is made in `public` is for everybody to write, through an API on the web: whoever
-- could add a migration to this table would have every process believe that the schema is a later one.
DO $$
DECLARE
    stranger text;
BEGIN
    IF to_regclass('_sqlx_migrations') IS NOT NULL THEN
        FOREACH stranger IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
            IF to_regrole(stranger) IS NOT NULL THEN
                EXECUTE format('REVOKE ALL ON _sqlx_migrations FROM %I', stranger);
            END IF;
        END LOOP;
    END IF;
END
$$;
