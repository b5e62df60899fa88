-- Schemas: where skills keep state. They live on another server (SKILLS_DATABASE_URL), one database an
-- organisation; here stands which there are, which skills may reach them, and what has been migrated.

CREATE TABLE eve.skill_schemas (
    org_id      uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    name        text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_]{0,39}$'),
    -- requested: somebody wants it; a control plane makes it.
    status      text NOT NULL DEFAULT 'requested' CHECK (status IN ('requested', 'ready')),
    -- Why the last try to make it failed.
    error       text,
    tried_at    timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now(),
    ready_at    timestamptz,
    PRIMARY KEY (org_id, name)
);
CREATE INDEX skill_schemas_requested ON eve.skill_schemas (tried_at NULLS FIRST)
    WHERE status = 'requested';

-- Which of the schemas that a skill's manifest or worker type names it may reach. The skill may be the
-- platform's, so the reference is by its id alone.
CREATE TABLE eve.schema_approvals (
    org_id       uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    skill_id     uuid NOT NULL REFERENCES eve.skills (id) ON DELETE CASCADE,
    schema_name  text NOT NULL CHECK (schema_name ~ '^[a-z][a-z0-9_]{0,39}$'),
    approved_by  jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, skill_id, schema_name)
);
CREATE INDEX schema_approvals_by_skill ON eve.schema_approvals (skill_id);

-- The ledger of migrations. The migration itself commits on the other server, so its transaction's id
-- there says what became of it: whoever finds `applying` asks that server before doing anything.
CREATE TABLE eve.skill_migrations (
    org_id       uuid NOT NULL,
    schema_name  text NOT NULL,
    number       integer NOT NULL CHECK (number > 0),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    checksum     bytea NOT NULL CHECK (length(checksum) = 32),
    status       text NOT NULL CHECK (status IN ('applying', 'applied')),
    transaction  text NOT NULL,
    -- The run that applied it.
    request_id   uuid,
    started_at   timestamptz NOT NULL DEFAULT now(),
    applied_at   timestamptz,
    PRIMARY KEY (org_id, schema_name, number),
    FOREIGN KEY (org_id, schema_name) REFERENCES eve.skill_schemas (org_id, name) ON DELETE CASCADE,
    CHECK ((status = 'applied') = (applied_at IS NOT NULL))
);

DO $$
DECLARE
    tenant_table text;
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['skill_schemas', 'schema_approvals', 'skill_migrations'] LOOP
        EXECUTE format('ALTER TABLE eve.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE eve.%I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY owner ON eve.%I TO CURRENT_USER USING (true)', tenant_table);
        EXECUTE format(
            'CREATE POLICY tenant ON eve.%I TO eve_tenant USING (org_id = %s) WITH CHECK (org_id = %s)',
            tenant_table, org, org);
        EXECUTE format(
            'CREATE POLICY guest ON eve.%I TO eve_guest USING (org_id = %s) WITH CHECK (org_id = %s)',
            tenant_table, org, org);
    END LOOP;
    -- Whoever makes what is requested does so for all organisations.
    CREATE POLICY engine ON eve.skill_schemas TO eve_engine USING (true);
END
$$;
GRANT SELECT, INSERT ON eve.skill_schemas TO eve_tenant, eve_guest;
GRANT SELECT, UPDATE ON eve.skill_schemas TO eve_engine;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.skill_migrations TO eve_tenant, eve_guest;
GRANT SELECT, INSERT, DELETE ON eve.schema_approvals TO eve_tenant;
GRANT SELECT ON eve.schema_approvals TO eve_guest;
