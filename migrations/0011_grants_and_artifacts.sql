-- What is granted to skills, and what becomes of machine code that cannot be trusted.

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
-- Members see what is taken from the skills that they use.
CREATE POLICY person ON eve.revoked_capabilities FOR SELECT TO authenticated
    USING (org_id = ANY (ARRAY(SELECT eve.own_orgs())));
GRANT SELECT (org_id, skill_id, capability, revoked_by, created_at) ON eve.revoked_capabilities TO authenticated;

-- Machine code that a worker has refused to run, and why. A control plane looks at it, and compiles it
-- again if it is no good; that, or finding it good, takes the mark away.
ALTER TABLE eve.artifacts
    ADD COLUMN refused_at  timestamptz,
    ADD COLUMN refused_why text CHECK (length(refused_why) BETWEEN 1 AND 500),
    ADD CHECK ((refused_at IS NULL) = (refused_why IS NULL));
CREATE INDEX artifacts_refused ON eve.artifacts (fingerprint) WHERE refused_at IS NOT NULL;
GRANT UPDATE (refused_at, refused_why) ON eve.artifacts TO eve_engine;
GRANT UPDATE (bytes, length, sha256, signature, created_at, refused_at, refused_why)
   ON eve.artifacts TO eve_control;
