-- Secrets of environments: written once, referred to by apps, never read back. A value is sealed: see
-- host/src/sealing.rs. Members see names and versions.

CREATE TABLE eve.environment_secrets (
    org_id          uuid NOT NULL,
    environment_id  uuid NOT NULL,
    name            text NOT NULL CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$'),
    value           jsonb NOT NULL CHECK (jsonb_typeof(value) = 'object'),
    -- How many values it has had.
    version         integer NOT NULL DEFAULT 1 CHECK (version > 0),
    created_by      jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_by      jsonb NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (environment_id, name),
    FOREIGN KEY (org_id, environment_id) REFERENCES eve.environments (org_id, id) ON DELETE CASCADE
);
CREATE INDEX environment_secrets_by_org ON eve.environment_secrets (org_id, environment_id);

-- The values that the pods of a deployment have, sealed for it: a secret that is set does not change pods
-- that are there, and what has been replaced everywhere is nowhere any more.
ALTER TABLE eve.deployments
    ADD COLUMN secrets jsonb CHECK (jsonb_typeof(secrets) = 'object');

-- Why there is a revision that nobody deployed.
ALTER TABLE eve.deployment_revisions
    ADD COLUMN cause text CHECK (length(cause) BETWEEN 1 AND 200);

DO $$
DECLARE
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    ALTER TABLE eve.environment_secrets ENABLE ROW LEVEL SECURITY;
    ALTER TABLE eve.environment_secrets FORCE ROW LEVEL SECURITY;
    EXECUTE 'CREATE POLICY owner ON eve.environment_secrets TO CURRENT_USER USING (true)';
    EXECUTE format(
        'CREATE POLICY tenant ON eve.environment_secrets TO eve_tenant USING (org_id = %s)'
        ' WITH CHECK (org_id = %s)', org, org);
    EXECUTE 'CREATE POLICY person ON eve.environment_secrets FOR SELECT TO authenticated'
            ' USING (org_id = ANY (ARRAY(SELECT eve.own_orgs())))';
END
$$;

-- The reconciler has no business here: it takes what a deployment has.
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.environment_secrets TO eve_tenant;
GRANT SELECT (org_id, environment_id, name, version, created_at, updated_at)
   ON eve.environment_secrets TO authenticated;
GRANT SELECT (cause) ON eve.deployment_revisions TO authenticated;
