-- Schedules: requests that are created again and again, at the times that a cron expression says.
--
-- A tick is one such time. Whoever fires one holds the lock of the schedule's row, and leaves a row
-- in schedule_ticks in the transaction that creates the request: no tick fires twice.

CREATE TABLE eve.schedules (
    id            uuid PRIMARY KEY,
    org_id        uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    name          text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    cron          text NOT NULL CHECK (length(cron) BETWEEN 1 AND 255),
    -- The zone of the IANA database whose clock on the wall the expression means.
    timezone      text NOT NULL CHECK (length(timezone) BETWEEN 1 AND 64),
    -- The request to create, as the API takes it.
    template      jsonb NOT NULL CHECK (jsonb_typeof(template) = 'object'),
    -- What becomes of a tick while the request of the one before is still open.
    overlap       text NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'allow', 'replace')),
    paused        boolean NOT NULL DEFAULT false,
    -- None while it is paused, and when there is no next time.
    next_at       timestamptz,
    last_tick     timestamptz,
    last_request  uuid,
    -- Why the last tick created nothing, if that was not as it should be.
    last_error    text,
    created_by    jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (org_id, name),
    UNIQUE (org_id, id),
    CHECK (NOT paused OR next_at IS NULL)
);
CREATE INDEX schedules_by_org ON eve.schedules (org_id, id);
CREATE INDEX schedules_due ON eve.schedules (next_at) WHERE next_at IS NOT NULL;

CREATE TABLE eve.schedule_ticks (
    schedule_id  uuid NOT NULL,
    tick         timestamptz NOT NULL,
    org_id       uuid NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('created', 'skipped', 'failed')),
    request_id   uuid,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schedule_id, tick),
    FOREIGN KEY (org_id, schedule_id) REFERENCES eve.schedules (org_id, id) ON DELETE CASCADE,
    CHECK ((outcome = 'created') = (request_id IS NOT NULL))
);

DO $$
DECLARE
    tenant_table text;
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['schedules', 'schedule_ticks'] LOOP
        EXECUTE format('ALTER TABLE eve.%I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE eve.%I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('CREATE POLICY owner ON eve.%I TO CURRENT_USER USING (true)', tenant_table);
        EXECUTE format(
            'CREATE POLICY tenant ON eve.%I TO eve_tenant USING (org_id = %s) WITH CHECK (org_id = %s)',
            tenant_table, org, org);
        EXECUTE format('CREATE POLICY engine ON eve.%I TO eve_engine USING (true)', tenant_table);
    END LOOP;
END
$$;
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.schedules TO eve_tenant;
GRANT SELECT ON eve.schedule_ticks TO eve_tenant;
GRANT SELECT, UPDATE ON eve.schedules TO eve_engine;
GRANT SELECT, INSERT, DELETE ON eve.schedule_ticks TO eve_engine;
