-- Row-level security. Every policy names its role (the default, PUBLIC, would leak), and every table
-- is FORCEd, so the owner needs a policy too. The organisation is read in a sub-select, so it is
-- evaluated once a statement.

-- Tables that belong to an organisation by their column org_id.
DO $$
DECLARE
    tenant_table text;
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY[
        'requests', 'queue', 'orchestration_results', 'attempts', 'run_logs', 'dependencies', 'inbox',
        'idempotency_keys', 'skills', 'skill_versions', 'artifacts', 'api_tokens', 'org_members',
        'audit_log'
    ] LOOP
        EXECUTE format('ALTER TABLE eve.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE eve.%I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY owner ON eve.%I TO CURRENT_USER USING (true)', tenant_table);
        EXECUTE format(
            'CREATE POLICY tenant ON eve.%I TO eve_tenant USING (org_id = %s) WITH CHECK (org_id = %s)',
            tenant_table, org, org);
    END LOOP;

    -- What the engine does spans organisations: it takes org ids from leased rows.
    FOREACH tenant_table IN ARRAY ARRAY[
        'requests', 'queue', 'orchestration_results', 'attempts', 'run_logs', 'dependencies', 'inbox',
        'idempotency_keys', 'skills', 'skill_versions', 'artifacts', 'audit_log'
    ] LOOP
        EXECUTE format('CREATE POLICY engine ON eve.%I TO eve_engine USING (true)', tenant_table);
    END LOOP;

    -- What a running skill may read.
    FOREACH tenant_table IN ARRAY ARRAY[
        'requests', 'queue', 'orchestration_results', 'dependencies'
    ] LOOP
        EXECUTE format('CREATE POLICY guest ON eve.%I FOR SELECT TO eve_guest USING (org_id = %s)',
                       tenant_table, org);
        EXECUTE format('CREATE POLICY views ON eve.%I FOR SELECT TO eve_views USING (true)', tenant_table);
    END LOOP;

    -- A key that a guest gives is reserved before its run commits.
    EXECUTE format(
        'CREATE POLICY guest ON eve.idempotency_keys TO eve_guest USING (org_id = %s) WITH CHECK (org_id = %s)',
        org, org);

    -- Skills of the platform are everybody's to see and run.
    FOREACH tenant_table IN ARRAY ARRAY['skills', 'skill_versions'] LOOP
        EXECUTE format(
            'CREATE POLICY platform ON eve.%I FOR SELECT TO eve_tenant, eve_guest'
            ' USING (org_id = ''00000000-0000-0000-0000-000000000000'')', tenant_table);
        EXECUTE format('CREATE POLICY guest ON eve.%I FOR SELECT TO eve_guest USING (org_id = %s)',
                       tenant_table, org);
    END LOOP;

    -- Identity is looked up before an organisation is known.
    FOREACH tenant_table IN ARRAY ARRAY['api_tokens', 'org_members', 'audit_log', 'skills', 'skill_versions', 'artifacts'] LOOP
        EXECUTE format('CREATE POLICY control ON eve.%I TO eve_control USING (true)', tenant_table);
    END LOOP;

    ALTER TABLE eve.organizations ENABLE ROW LEVEL SECURITY;
    ALTER TABLE eve.organizations FORCE ROW LEVEL SECURITY;
    CREATE POLICY owner ON eve.organizations TO CURRENT_USER USING (true);
    CREATE POLICY control ON eve.organizations TO eve_control USING (true);
    CREATE POLICY engine ON eve.organizations FOR SELECT TO eve_engine USING (true);
    EXECUTE format('CREATE POLICY tenant ON eve.organizations FOR SELECT TO eve_tenant USING (id = %s)', org);
END
$$;

GRANT SELECT, INSERT ON eve.requests TO eve_tenant, eve_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.queue, eve.orchestration_results TO eve_tenant, eve_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.dependencies, eve.inbox TO eve_tenant, eve_engine;
GRANT SELECT, INSERT ON eve.attempts, eve.run_logs, eve.idempotency_keys TO eve_tenant, eve_engine;
GRANT SELECT ON eve.requests, eve.queue, eve.orchestration_results, eve.dependencies, eve.skills,
                eve.skill_versions, eve.worker_types TO eve_guest;
GRANT SELECT, INSERT ON eve.idempotency_keys TO eve_guest;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.workers, eve.leadership TO eve_engine;
GRANT SELECT ON eve.worker_types, eve.skills, eve.skill_versions, eve.artifacts, eve.organizations TO eve_engine;
GRANT SELECT ON eve.worker_types, eve.organizations TO eve_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.skills, eve.skill_versions, eve.api_tokens, eve.org_members
   TO eve_tenant;
GRANT SELECT, INSERT ON eve.artifacts TO eve_tenant;
GRANT SELECT, INSERT ON eve.audit_log TO eve_tenant, eve_engine, eve_control;

GRANT SELECT, INSERT, UPDATE, DELETE ON eve.organizations, eve.org_members, eve.worker_types, eve.skills,
      eve.skill_versions, eve.artifacts TO eve_control;
GRANT SELECT, UPDATE (last_used_at), INSERT ON eve.api_tokens TO eve_control;
GRANT SELECT, INSERT ON eve.platform_admins TO eve_control;

-- The view belongs to a role made for it, with the organisation guard inside: members read their own
-- rows, the metrics role counts.
GRANT SELECT ON eve.requests, eve.queue, eve.orchestration_results, eve.dependencies TO eve_views;
GRANT CREATE ON SCHEMA eve TO eve_views;
ALTER VIEW eve.orchestration_requests OWNER TO eve_views;
GRANT SELECT ON eve.orchestration_requests TO eve_tenant;
GRANT SELECT (worker_type, status) ON eve.orchestration_requests TO eve_metrics;

-- The one list function. `context @>` is not leakproof, so under row-level security its index would
-- go unused; as the owner's function it filters the organisation itself, which it takes from the
-- transaction, never from its caller. Returns ids, newest first.
CREATE FUNCTION eve.find_requests(
    in_context jsonb, in_statuses text[], in_worker_type text, in_skill text, in_root uuid,
    in_parent uuid, in_before uuid, in_limit integer
) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog
    SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    org constant uuid := nullif(current_setting('eve.org_id', true), '')::uuid;
BEGIN
    IF org IS NULL THEN
        RETURN;
    END IF;
    IF in_statuses <@ ARRAY['scheduled', 'blocked', 'pending', 'claimed', 'processing', 'waiting'] THEN
        -- Only live ones: the narrow table leads, however long the history is.
        RETURN QUERY
        SELECT q.id
          FROM eve.queue q
          JOIN eve.requests r ON r.id = q.id
         WHERE q.org_id = org
           AND q.status = ANY (in_statuses)
           AND (in_before IS NULL OR q.id < in_before)
           AND (in_context IS NULL OR r.context @> in_context)
           AND (in_worker_type IS NULL OR q.worker_type = in_worker_type)
           AND (in_skill IS NULL OR r.skill = in_skill)
           AND (in_root IS NULL OR r.root_request_id = in_root)
           AND (in_parent IS NULL OR r.parent_request_id = in_parent)
         ORDER BY q.id DESC
         LIMIT in_limit;
    ELSE
        RETURN QUERY
        SELECT r.id
          FROM eve.requests r
          LEFT JOIN eve.queue q ON q.id = r.id
          LEFT JOIN eve.orchestration_results x ON x.request_id = r.id
         WHERE r.org_id = org
           AND (in_statuses IS NULL OR coalesce(q.status, x.status) = ANY (in_statuses))
           AND (in_before IS NULL OR r.id < in_before)
           AND (in_context IS NULL OR r.context @> in_context)
           AND (in_worker_type IS NULL OR r.worker_type = in_worker_type)
           AND (in_skill IS NULL OR r.skill = in_skill)
           AND (in_root IS NULL OR r.root_request_id = in_root)
           AND (in_parent IS NULL OR r.parent_request_id = in_parent)
         ORDER BY r.id DESC
         LIMIT in_limit;
    END IF;
END
$$;
ALTER FUNCTION eve.find_requests(jsonb, text[], text, text, uuid, uuid, uuid, integer) OWNER TO eve_views;
REVOKE ALL ON FUNCTION eve.find_requests(jsonb, text[], text, text, uuid, uuid, uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.find_requests(jsonb, text[], text, text, uuid, uuid, uuid, integer)
   TO eve_tenant, eve_guest;
REVOKE CREATE ON SCHEMA eve FROM eve_views;

-- Every process compares the schema's version with its own before it works.
DO $$
BEGIN
    IF to_regclass('_sqlx_migrations') IS NOT NULL THEN
        GRANT SELECT ON _sqlx_migrations TO PUBLIC;
    END IF;
END
$$;
