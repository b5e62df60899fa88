-- Who answers the requests of an app: host names lead to it, and canaries take a share of them.

ALTER TABLE eve.deployments
    -- Hosts, what leads from them to the app, and the canaries that take a share, as the cluster was last
    -- told; none while there is nothing of the kind.
    ADD COLUMN applied_traffic jsonb CHECK (jsonb_typeof(applied_traffic) = 'object');

-- The canaries of an app.
CREATE INDEX deployments_by_main ON eve.deployments (environment_id, (config #>> '{canary,of}'))
 WHERE config #>> '{canary,of}' IS NOT NULL;

-- What a running skill sees of it, and of where an app is reached.
GRANT SELECT (applied_traffic) ON eve.deployments TO eve_guest;
GRANT SELECT (cause) ON eve.deployment_revisions TO eve_guest;
GRANT SELECT (cluster_id) ON eve.environments TO eve_guest;
GRANT SELECT (id, config) ON eve.clusters TO eve_guest;
GRANT SELECT (id, slug) ON eve.organizations TO eve_guest;
CREATE POLICY guest ON eve.organizations FOR SELECT TO eve_guest
    USING (id = (SELECT nullif(current_setting('eve.org_id', true), '')::uuid));
