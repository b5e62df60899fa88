-- Skills that deploy. What a run asks for is an order, written in the commit that ends the run; the control
-- plane takes it, which makes it a revision, and tells the run's orchestration what became of it.

CREATE TABLE eve.deployment_orders (
    -- Rising with the time at which it was asked for: orders are taken in this order.
    id                uuid PRIMARY KEY,
    org_id            uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    -- The request for whose run it was asked, and on whose behalf that ran.
    request_id        uuid NOT NULL,
    user_id           uuid,
    -- What says whether it may be done.
    worker_type       text NOT NULL,
    -- Who is woken once it is settled; none if the run had nothing to wait for.
    orchestration_id  uuid,
    environment       text NOT NULL,
    app               text NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('create', 'scale', 'rollback', 'delete')),
    -- What is asked for. Emptied as soon as that is decided: environment variables are in it.
    body              jsonb CHECK (jsonb_typeof(body) = 'object'),
    -- The deployment's id, as the run was told: that of the deployment that was there, or a new one.
    told_id           uuid NOT NULL,
    state             text NOT NULL DEFAULT 'asked'
                      CHECK (state IN ('asked', 'approval', 'taken', 'settled')),
    -- The question whether it may be done.
    question_id       uuid REFERENCES eve.hitl_requests (id) ON DELETE SET NULL,
    -- What it became.
    deployment_id     uuid,
    revision          integer,
    -- What became of that.
    outcome           text CHECK (outcome IN ('running', 'failed', 'stopped')),
    reason            text,
    message           text,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at        timestamptz,
    -- When the orchestration was told; at once where there is none.
    told_at           timestamptz,
    CHECK ((body IS NULL) = (state IN ('taken', 'settled'))),
    CHECK (state <> 'taken' OR (deployment_id IS NOT NULL AND revision IS NOT NULL)),
    CHECK ((state = 'settled') = (outcome IS NOT NULL AND settled_at IS NOT NULL)),
    CHECK (told_at IS NULL OR state = 'settled')
);
CREATE INDEX deployment_orders_asked ON eve.deployment_orders (id) WHERE state IN ('asked', 'approval');
CREATE INDEX deployment_orders_taken ON eve.deployment_orders (deployment_id, revision) WHERE state = 'taken';
CREATE INDEX deployment_orders_untold ON eve.deployment_orders (orchestration_id) WHERE told_at IS NULL;
CREATE INDEX deployment_orders_settled ON eve.deployment_orders (settled_at) WHERE told_at IS NOT NULL;
CREATE INDEX deployment_orders_question ON eve.deployment_orders (question_id) WHERE question_id IS NOT NULL;

DO $$
DECLARE
    tenant_table text;
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    ALTER TABLE eve.deployment_orders ENABLE ROW LEVEL SECURITY;
    ALTER TABLE eve.deployment_orders FORCE ROW LEVEL SECURITY;
    CREATE POLICY owner ON eve.deployment_orders TO CURRENT_USER USING (true);
    EXECUTE format(
        'CREATE POLICY tenant ON eve.deployment_orders TO eve_tenant USING (org_id = %s) WITH CHECK (org_id = %s)',
        org, org);
    -- Whoever ends runs writes them and tells what became of them, for whichever organisation; whoever leads
    -- the reconcilers looks for them.
    CREATE POLICY engine ON eve.deployment_orders TO eve_engine USING (true);
    CREATE POLICY control ON eve.deployment_orders TO eve_control USING (true);
    CREATE POLICY person ON eve.deployment_orders FOR SELECT TO authenticated
        USING (org_id = ANY (ARRAY(SELECT eve.own_orgs())));
    -- What a running skill may see of its organisation's deployments.
    FOREACH tenant_table IN ARRAY ARRAY['environments', 'apps', 'deployments', 'deployment_revisions'] LOOP
        EXECUTE format('CREATE POLICY guest ON eve.%I FOR SELECT TO eve_guest USING (org_id = %s)',
                       tenant_table, org);
    END LOOP;
    CREATE POLICY control ON eve.hitl_requests FOR SELECT TO eve_control USING (true);
END
$$;
GRANT SELECT, UPDATE ON eve.deployment_orders TO eve_tenant;
GRANT SELECT, INSERT, DELETE,
      UPDATE (orchestration_id, state, body, outcome, reason, message, settled_at, told_at)
   ON eve.deployment_orders TO eve_engine;
GRANT SELECT, UPDATE (state, body, outcome, reason, message, settled_at, told_at)
   ON eve.deployment_orders TO eve_control;
GRANT SELECT (id, org_id, request_id, user_id, worker_type, orchestration_id, environment, app, kind, state,
              question_id, deployment_id, revision, outcome, reason, message, created_at, settled_at)
   ON eve.deployment_orders TO authenticated;
GRANT SELECT (id, org_id, name, config, status, message) ON eve.environments TO eve_guest;
GRANT SELECT (id, org_id, name) ON eve.apps TO eve_guest;
GRANT SELECT (id, app_id, environment_id, org_id, status, image, replicas, config, deployed_at, deployed_by,
              request_id, created_at, revision, stopping, ready_replicas, pods, reason, message, updated_at)
   ON eve.deployments TO eve_guest;
GRANT SELECT (deployment_id, revision, org_id, kind, template, origin, image, digest, replicas, outcome,
              reason, message, ran_at, created_by, request_id, created_at, settled_at)
   ON eve.deployment_revisions TO eve_guest;
GRANT SELECT (id, org_id, status) ON eve.hitl_requests TO eve_control;

-- What running skills ask of clusters, which their workers cannot reach: a worker writes the question, a
-- control plane the answer. Nothing of it outlives a crash, and whoever asked asks again.
CREATE UNLOGGED TABLE eve.cluster_asks (
    id           uuid PRIMARY KEY,
    org_id       uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    worker_type  text NOT NULL,
    environment  text NOT NULL,
    -- What is asked: logs of an app, or something of the Kubernetes API.
    body         jsonb NOT NULL CHECK (jsonb_typeof(body) = 'object'),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at     timestamptz,
    answer       jsonb
);
CREATE INDEX cluster_asks_open ON eve.cluster_asks (id) WHERE taken_at IS NULL;
CREATE INDEX cluster_asks_by_age ON eve.cluster_asks (created_at);

DO $$
DECLARE
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    ALTER TABLE eve.cluster_asks ENABLE ROW LEVEL SECURITY;
    ALTER TABLE eve.cluster_asks FORCE ROW LEVEL SECURITY;
    CREATE POLICY owner ON eve.cluster_asks TO CURRENT_USER USING (true);
    EXECUTE format(
        'CREATE POLICY tenant ON eve.cluster_asks TO eve_tenant USING (org_id = %s) WITH CHECK (org_id = %s)',
        org, org);
    EXECUTE format(
        'CREATE POLICY guest ON eve.cluster_asks TO eve_guest USING (org_id = %s) WITH CHECK (org_id = %s)',
        org, org);
    CREATE POLICY control ON eve.cluster_asks TO eve_control USING (true);
END
$$;
GRANT SELECT, DELETE, INSERT (id, org_id, worker_type, environment, body) ON eve.cluster_asks TO eve_guest;
GRANT SELECT, DELETE, UPDATE (taken_at, answer) ON eve.cluster_asks TO eve_control;

-- Who may answer a question: everybody in the organisation, or only those with more than that.
ALTER TABLE eve.hitl_requests
    ADD COLUMN least_role text NOT NULL DEFAULT 'member' CHECK (least_role IN ('member', 'admin', 'owner'));

-- What deployment workers run when no skill is named, unless an operator has said something else.
UPDATE eve.worker_types SET default_skill = 'deployment-worker' WHERE id = 'deployment' AND seeded;
