-- Deployments: clusters that the platform may use, the namespaces that organisations have in them, and
-- what runs there. The first columns of each table are the ones that people write; what follows is what
-- the reconciler has found.

-- Clusters belong to the platform. `credentials` is sealed: see host/src/sealing.rs.
CREATE TABLE eve.clusters (
    id           text PRIMARY KEY CHECK (id ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    provider     text NOT NULL CHECK (provider IN ('local', 'eks', 'gke', 'aks', 'ecs', 'docker')),
    -- The API server; none for the cluster that the control plane itself runs in.
    endpoint     text CHECK (length(endpoint) BETWEEN 1 AND 2048),
    credentials  jsonb CHECK (jsonb_typeof(credentials) = 'object'),
    config       jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    created_at   timestamptz NOT NULL DEFAULT now(),
    created_by   jsonb,
    -- What the last look at it found.
    status       text NOT NULL DEFAULT 'unchecked'
                 CHECK (status IN ('unchecked', 'ready', 'unready', 'unreachable')),
    message      text,
    version      text,
    checked_at   timestamptz
);

-- A namespace in a cluster is one environment's, whatever their names are: `acme` + `corp-dev` and
-- `acme-corp` + `dev` are the same word.
CREATE TABLE eve.environments (
    id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- An organisation is deleted after its environments: nobody would know of the namespaces any more.
    org_id          uuid NOT NULL REFERENCES eve.organizations (id),
    name            text NOT NULL CHECK (name ~ '^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$'),
    cluster_id      text NOT NULL REFERENCES eve.clusters (id),
    namespace       text NOT NULL CHECK (namespace ~ '^[a-z0-9]([-a-z0-9]{0,56}[a-z0-9])?$'),
    config          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    status          text NOT NULL DEFAULT 'provisioning'
                    CHECK (status IN ('provisioning', 'ready', 'failed', 'deleting')),
    message         text,
    created_by      jsonb NOT NULL DEFAULT '{"via": "platform"}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    provisioned_at  timestamptz,
    UNIQUE (org_id, name),
    UNIQUE (org_id, id),
    UNIQUE (cluster_id, namespace)
);

CREATE TABLE eve.apps (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    org_id      uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    name        text NOT NULL CHECK (name ~ '^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$'),
    repo_url    text CHECK (length(repo_url) BETWEEN 1 AND 2048),
    config      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    created_at  timestamptz NOT NULL DEFAULT now(),
    created_by  jsonb NOT NULL DEFAULT '{"via": "platform"}',
    UNIQUE (org_id, name),
    UNIQUE (org_id, id)
);

-- What an app is to be in an environment, as its latest revision says, and what it is.
CREATE TABLE eve.deployments (
    id                  uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    app_id              uuid NOT NULL,
    environment_id      uuid NOT NULL,
    org_id              uuid NOT NULL,
    status              text NOT NULL DEFAULT 'pending'
                        CHECK (status IN ('pending', 'deploying', 'running', 'failed', 'stopped')),
    image               text NOT NULL CHECK (length(image) BETWEEN 1 AND 512),
    replicas            integer NOT NULL DEFAULT 1 CHECK (replicas BETWEEN 0 AND 1000),
    config              jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    -- When a revision of it first ran.
    deployed_at         timestamptz,
    deployed_by         uuid,
    request_id          uuid,
    created_at          timestamptz NOT NULL DEFAULT now(),
    -- The latest revision.
    revision            integer NOT NULL DEFAULT 1 CHECK (revision > 0),
    -- It is to be gone; once it is, its status is `stopped`.
    stopping            boolean NOT NULL DEFAULT false,
    -- The last revision that the cluster took, and the generation of the object that came of it: another
    -- generation is somebody else's doing.
    applied_revision    integer NOT NULL DEFAULT 0,
    applied_generation  bigint,
    -- The last revision of which an end was told.
    settled_revision    integer NOT NULL DEFAULT 0,
    ready_replicas      integer NOT NULL DEFAULT 0,
    pods                jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(pods) = 'array'),
    reason              text,
    message             text,
    -- Since when it has been on its way: what is not there by the deadline has failed.
    underway_since      timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz NOT NULL DEFAULT now(),
    UNIQUE (app_id, environment_id),
    UNIQUE (org_id, id),
    FOREIGN KEY (org_id, app_id) REFERENCES eve.apps (org_id, id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, environment_id) REFERENCES eve.environments (org_id, id) ON DELETE CASCADE
);
CREATE INDEX deployments_by_environment ON eve.deployments (environment_id);
CREATE INDEX deployments_by_org ON eve.deployments (org_id, environment_id);

-- Every change that was asked for. What was asked never changes; what became of it is written once.
CREATE TABLE eve.deployment_revisions (
    deployment_id  uuid NOT NULL,
    revision       integer NOT NULL CHECK (revision > 0),
    org_id         uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('created', 'updated', 'scaled', 'rolled_back')),
    -- The revision whose pods it has: its own, or, after scaling, an earlier one's.
    template       integer NOT NULL CHECK (template BETWEEN 1 AND revision),
    -- The revision that a rollback went back to.
    origin         integer,
    image          text NOT NULL,
    -- What the image's name meant when it ran.
    digest         text CHECK (digest ~ '^sha256:[0-9a-f]{64}$'),
    -- It is run by that digest, not by its name: what a rollback goes back to.
    pinned         boolean NOT NULL DEFAULT false CHECK (NOT pinned OR digest IS NOT NULL),
    replicas       integer NOT NULL CHECK (replicas BETWEEN 0 AND 1000),
    config         jsonb NOT NULL CHECK (jsonb_typeof(config) = 'object'),
    -- Environment variables, sealed.
    variables      jsonb CHECK (jsonb_typeof(variables) = 'object'),
    outcome        text CHECK (outcome IN ('running', 'failed', 'superseded', 'stopped')),
    reason         text,
    message        text,
    -- When it first ran: one that was given up may come to be after all.
    ran_at         timestamptz,
    created_by     jsonb NOT NULL,
    request_id     uuid,
    created_at     timestamptz NOT NULL DEFAULT now(),
    settled_at     timestamptz,
    PRIMARY KEY (deployment_id, revision),
    FOREIGN KEY (org_id, deployment_id) REFERENCES eve.deployments (org_id, id) ON DELETE CASCADE,
    CHECK ((outcome IS NULL) = (settled_at IS NULL))
);

CREATE TABLE eve.deployment_events (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    deployment_id  uuid NOT NULL,
    event_type     text NOT NULL CHECK (length(event_type) BETWEEN 1 AND 40),
    details        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(details) = 'object'),
    created_at     timestamptz NOT NULL DEFAULT now(),
    org_id         uuid NOT NULL,
    revision       integer,
    -- Whoever asked for it; none for what was found.
    actor          jsonb,
    FOREIGN KEY (org_id, deployment_id) REFERENCES eve.deployments (org_id, id) ON DELETE CASCADE
);
CREATE INDEX deployment_events_by_deployment ON eve.deployment_events (deployment_id, id);

DO $$
DECLARE
    tenant_table text;
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY[
        'environments', 'apps', 'deployments', 'deployment_revisions', 'deployment_events'
    ] LOOP
        EXECUTE format('ALTER TABLE eve.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE eve.%I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY owner ON eve.%I TO CURRENT_USER USING (true)', tenant_table);
        EXECUTE format(
            'CREATE POLICY tenant ON eve.%I TO eve_tenant USING (org_id = %s) WITH CHECK (org_id = %s)',
            tenant_table, org, org);
        -- Reconciling spans organisations. It is the control plane's: a worker's login cannot become it.
        EXECUTE format('CREATE POLICY control ON eve.%I TO eve_control USING (true)', tenant_table);
        EXECUTE format(
            'CREATE POLICY person ON eve.%I FOR SELECT TO authenticated'
            ' USING (org_id = ANY (ARRAY(SELECT eve.own_orgs())))', tenant_table);
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE, DELETE ON eve.clusters TO eve_control;
GRANT SELECT (id, name, provider, status, config) ON eve.clusters TO eve_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.environments, eve.apps TO eve_tenant;
GRANT SELECT, INSERT, UPDATE ON eve.deployments, eve.deployment_revisions TO eve_tenant;
GRANT SELECT, INSERT ON eve.deployment_events TO eve_tenant;
GRANT SELECT, UPDATE, DELETE ON eve.environments TO eve_control;
GRANT SELECT ON eve.apps TO eve_control;
GRANT SELECT, UPDATE ON eve.deployments, eve.deployment_revisions TO eve_control;
GRANT SELECT, INSERT ON eve.deployment_events TO eve_control;
-- A duty that is led checks its leadership in the transaction that writes.
GRANT SELECT, UPDATE ON eve.leadership TO eve_control;

GRANT SELECT (id, org_id, name, cluster_id, namespace, config, status, message, created_at, provisioned_at)
   ON eve.environments TO authenticated;
GRANT SELECT (id, org_id, name, repo_url, config, created_at) ON eve.apps TO authenticated;
GRANT SELECT (id, app_id, environment_id, org_id, status, image, replicas, config, deployed_at, deployed_by,
              request_id, created_at, revision, stopping, ready_replicas, pods, reason, message, updated_at)
   ON eve.deployments TO authenticated;
GRANT SELECT (deployment_id, revision, org_id, kind, template, origin, image, digest, pinned, replicas,
              config, outcome, reason, message, ran_at, request_id, created_at, settled_at)
   ON eve.deployment_revisions TO authenticated;
GRANT SELECT (id, deployment_id, event_type, details, created_at, org_id, revision)
   ON eve.deployment_events TO authenticated;
