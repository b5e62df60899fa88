-- What an organisation takes away from a skill. Worker types grant capabilities; what is named here is
-- denied to the skill in this organisation all the same, whichever version is active. The skill may be
-- the platform's, so the reference is by its id alone.
CREATE TABLE eve.revoked_capabilities (
    org_id      uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    skill_id    uuid NOT NULL REFERENCES eve.skills (id) ON DELETE CASCADE,
    capability  text NOT NULL CHECK (capability IN ('queue', 'db', 'deploy')),
    revoked_by  jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, skill_id, capability)
);
CREATE INDEX revoked_capabilities_by_skill ON eve.revoked_capabilities (skill_id);

DO $$
DECLARE
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    ALTER TABLE eve.revoked_capabilities ENABLE ROW LEVEL SECURITY;
    ALTER TABLE eve.revoked_capabilities FORCE ROW LEVEL SECURITY;
    CREATE POLICY owner ON eve.revoked_capabilities TO CURRENT_USER USING (true);
    EXECUTE format(
        'CREATE POLICY tenant ON eve.revoked_capabilities TO eve_tenant'
        ' USING (org_id = %s) WITH CHECK (org_id = %s)', org, org);
    -- Read with what is claimed, for whichever organisation that is.
    CREATE POLICY engine ON eve.revoked_capabilities FOR SELECT TO eve_engine USING (true);
END
$$;
GRANT SELECT, INSERT, DELETE ON eve.revoked_capabilities TO eve_tenant;
GRANT SELECT ON eve.revoked_capabilities TO eve_engine;
