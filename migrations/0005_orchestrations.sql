-- Orchestrations: requests that start others, return, and are woken by what happens next.
--
-- A wake-up is a request of its own (a row of requests and queue, later of results), whose
-- orchestration_id is not its own id. What wakes it stands in eve.inbox. Whoever inserts there, and
-- whoever ends a wake-up, holds the lock of the orchestration's row in eve.queue.

-- An hour before the instant of a UUIDv7. What a request creates has an id beyond this of its own,
-- although other processes' clocks make it: so partitions of days before can be left out.
CREATE FUNCTION eve.uuid_floor(id uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN (lpad(to_hex(greatest(
               ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint - 3600000, 0)), 12, '0')
            || repeat('0', 20))::uuid;

-- The generation of the parent that created it: a retried orchestration starts with no children.
ALTER TABLE eve.requests ADD COLUMN parent_generation integer CHECK (parent_generation > 0);
-- The schedule that created it, by name.
ALTER TABLE eve.requests ADD COLUMN schedule text;

ALTER TABLE eve.queue
    DROP COLUMN replies,
    -- The orchestration that is told when this ends.
    ADD COLUMN reply_to uuid,
    -- The orchestration that this is a wake-up of.
    ADD COLUMN wakes uuid,
    -- Whether it has waited, or was given children from outside: its end ends what it has started.
    ADD COLUMN orchestrates boolean NOT NULL DEFAULT false,
    -- Until when an orchestration waits for the next event before it fails.
    ADD COLUMN wait_until timestamptz,
    ADD CHECK ((status = 'waiting') = (wait_until IS NOT NULL)),
    ADD CHECK (status <> 'waiting' OR orchestrates),
    ADD CHECK (wakes IS NULL OR (reply_to IS NULL AND NOT orchestrates));
-- At most one open wake-up of an orchestration.
CREATE UNIQUE INDEX queue_wakeup ON eve.queue (wakes) WHERE wakes IS NOT NULL;
CREATE INDEX queue_replies ON eve.queue (reply_to) WHERE reply_to IS NOT NULL;
CREATE INDEX queue_waits ON eve.queue (wait_until) WHERE status = 'waiting';

-- A run that ended in waiting leaves its usage here; so does what a retry leaves behind.
ALTER TABLE eve.attempts
    DROP CONSTRAINT attempts_kind_check,
    ADD CONSTRAINT attempts_kind_check
        CHECK (kind IN ('failed', 'rescued', 'drained', 'retried', 'waited')),
    ADD COLUMN tokens_used bigint CHECK (tokens_used >= 0),
    ADD COLUMN cost double precision CHECK (cost >= 0);

CREATE INDEX inbox_bound ON eve.inbox (wakeup_id) WHERE wakeup_id IS NOT NULL;

-- Timers that a run has set: by name, so that setting one again moves it.
CREATE TABLE eve.timers (
    orchestration_id  uuid NOT NULL,
    name              text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    id                uuid NOT NULL,
    org_id            uuid NOT NULL,
    due_at            timestamptz NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (orchestration_id, name)
);
CREATE INDEX timers_due ON eve.timers (due_at);

-- Questions to people.
CREATE TABLE eve.hitl_requests (
    id             uuid PRIMARY KEY,
    org_id         uuid NOT NULL,
    -- The orchestration that hears the answer; none if a person asked.
    request_id     uuid,
    question       text NOT NULL CHECK (length(question) > 0),
    -- The answers to choose from; any answer if there are none.
    options        text[] NOT NULL DEFAULT '{}',
    details        jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(details) = 'object'),
    status         text NOT NULL DEFAULT 'open'
                   CHECK (status IN ('open', 'answered', 'expired', 'cancelled')),
    response       jsonb,
    responded_by   jsonb,
    created_by     jsonb NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    CHECK ((status = 'answered') = (response IS NOT NULL AND responded_by IS NOT NULL)),
    CHECK ((status = 'open') = (ended_at IS NULL))
);
CREATE INDEX hitl_requests_by_org ON eve.hitl_requests (org_id, id);
CREATE INDEX hitl_requests_open ON eve.hitl_requests (org_id, id) WHERE status = 'open';
CREATE INDEX hitl_requests_due ON eve.hitl_requests (expires_at) WHERE status = 'open';
CREATE INDEX hitl_requests_awaited ON eve.hitl_requests (request_id)
    WHERE status = 'open' AND request_id IS NOT NULL;

DO $$
DECLARE
    tenant_table text;
    org constant text := '(SELECT nullif(current_setting(''eve.org_id'', true), '''')::uuid)';
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['timers', 'hitl_requests'] LOOP
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
GRANT SELECT, INSERT, UPDATE, DELETE ON eve.timers TO eve_engine;
GRANT SELECT, DELETE ON eve.timers TO eve_tenant;
GRANT SELECT, INSERT, UPDATE ON eve.hitl_requests TO eve_tenant, eve_engine;
