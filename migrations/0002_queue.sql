-- The queue. Three kinds of rows, because they live differently:
--   requests               what was asked: immutable
--   queue                  live state only: inserted, updated at claim, deleted at the end
--   orchestration_results  what came out: append-only, one row for a request that has ended
-- requests and orchestration_results (and what hangs on one run) are partitioned by the day in the
-- request's UUIDv7, so that retention drops partitions.
--
-- No foreign keys from or to these tables: checking one locks the organisation's row for every
-- request, and a referenced partition cannot be dropped. Their org_id comes from authentication or
-- from a leased row, never from a client.

CREATE TABLE eve.requests (
    id                 uuid NOT NULL,
    org_id             uuid NOT NULL,
    user_id            uuid,
    worker_type        text NOT NULL,
    skill              text,
    prompt             text NOT NULL DEFAULT '',
    context            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(context) = 'object'),
    repo_url           text,
    branch             text,
    config             jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    metadata           jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),
    reply_to           jsonb CHECK (jsonb_typeof(reply_to) = 'object'),
    priority           smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    max_attempts       smallint NOT NULL DEFAULT 3 CHECK (max_attempts BETWEEN 1 AND 25),
    timeout_ms         bigint CHECK (timeout_ms BETWEEN 100 AND 86400000),
    idempotency_key    text,
    -- The tree, for usage and display; and the nearest self or ancestor that is not a wake-up.
    root_request_id    uuid NOT NULL,
    orchestration_id   uuid NOT NULL,
    parent_request_id  uuid,
    detached           boolean NOT NULL DEFAULT false,
    created_by         jsonb NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX requests_by_org ON eve.requests (org_id, id);
CREATE INDEX requests_by_context ON eve.requests USING gin (context jsonb_path_ops);
CREATE INDEX requests_by_parent ON eve.requests (parent_request_id) WHERE parent_request_id IS NOT NULL;

CREATE TABLE eve.queue (
    id              uuid NOT NULL PRIMARY KEY,
    org_id          uuid NOT NULL,
    worker_type     text NOT NULL,
    status          text NOT NULL
                    CHECK (status IN ('scheduled', 'blocked', 'pending', 'claimed', 'processing', 'waiting')),
    priority        smallint NOT NULL,
    generation      integer NOT NULL DEFAULT 1 CHECK (generation > 0),
    attempt         smallint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    -- Deaths of workers under it, and hand-backs by draining ones, apart from its own attempts.
    rescues         smallint NOT NULL DEFAULT 0 CHECK (rescues >= 0),
    drains          smallint NOT NULL DEFAULT 0 CHECK (drains >= 0),
    open_blockers   integer NOT NULL DEFAULT 0 CHECK (open_blockers >= 0),
    -- Set by whoever adds an edge or a reply, under this row's lock: without it, and without
    -- `replies`, the request ends without any graph work.
    has_dependents  boolean NOT NULL DEFAULT false,
    replies         boolean NOT NULL DEFAULT false,
    run_at          timestamptz,
    worker_id       uuid,
    lease           bigint,
    claimed_at      timestamptz,
    CHECK ((status IN ('claimed', 'processing'))
           = (worker_id IS NOT NULL AND lease IS NOT NULL AND claimed_at IS NOT NULL)),
    CHECK (status <> 'scheduled' OR run_at IS NOT NULL),
    CHECK (status <> 'blocked' OR open_blockers > 0),
    CHECK (status NOT IN ('pending', 'claimed', 'processing') OR open_blockers = 0)
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
-- What claiming scans: organisation by organisation within a worker type.
CREATE INDEX queue_pending ON eve.queue (worker_type, org_id, priority, id) WHERE status = 'pending';
-- Suspects: a worker died under them. Claimed one at a time.
CREATE INDEX queue_suspects ON eve.queue (worker_type, id) WHERE status = 'pending' AND rescues > 0;
CREATE INDEX queue_due ON eve.queue (run_at) WHERE status = 'scheduled';
CREATE INDEX queue_leased ON eve.queue (worker_id) WHERE status IN ('claimed', 'processing');
CREATE INDEX queue_by_org ON eve.queue (org_id, id);

CREATE TABLE eve.orchestration_results (
    request_id               uuid NOT NULL,
    org_id                   uuid NOT NULL,
    status                   text NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
    generation               integer NOT NULL,
    attempt                  smallint NOT NULL,
    summary                  text,
    data                     jsonb,
    error_code               text,
    error_message            text,
    -- The blocker, and its generation, whose end cancelled this: retrying it revives this.
    cancelled_by             uuid,
    cancelled_by_generation  integer,
    tokens_used              bigint CHECK (tokens_used >= 0),
    cost                     double precision CHECK (cost >= 0),
    worker_id                uuid,
    started_at               timestamptz,
    finished_at              timestamptz NOT NULL DEFAULT clock_timestamp(),
    duration_us              bigint,
    cpu_us                   bigint,
    memory_peak_bytes        bigint,
    PRIMARY KEY (request_id),
    CHECK ((status = 'completed') = (error_code IS NULL)),
    CHECK ((cancelled_by IS NULL) = (cancelled_by_generation IS NULL))
) PARTITION BY RANGE (request_id);
CREATE INDEX results_cancelled_by ON eve.orchestration_results (cancelled_by, cancelled_by_generation)
    WHERE cancelled_by IS NOT NULL;

-- Runs that did not complete the request, and generations that a retry left behind.
CREATE TABLE eve.attempts (
    request_id         uuid NOT NULL,
    id                 uuid NOT NULL,
    org_id             uuid NOT NULL,
    generation         integer NOT NULL,
    attempt            smallint NOT NULL,
    kind               text NOT NULL CHECK (kind IN ('failed', 'rescued', 'drained', 'retried')),
    code               text NOT NULL,
    message            text NOT NULL,
    worker_id          uuid,
    started_at         timestamptz,
    ended_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    duration_us        bigint,
    cpu_us             bigint,
    memory_peak_bytes  bigint,
    PRIMARY KEY (request_id, id)
) PARTITION BY RANGE (request_id);

CREATE TABLE eve.run_logs (
    request_id  uuid NOT NULL,
    org_id      uuid NOT NULL,
    generation  integer NOT NULL,
    attempt     smallint NOT NULL,
    id          uuid NOT NULL,
    lines       jsonb NOT NULL CHECK (jsonb_typeof(lines) = 'array'),
    dropped     bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (request_id, id)
) PARTITION BY RANGE (request_id);

-- Partitions, one a day. A default partition takes what no day's partition was made for, so that a
-- control plane which was down for days stops nobody from creating requests.
CREATE TABLE eve.requests_default PARTITION OF eve.requests DEFAULT;
CREATE TABLE eve.orchestration_results_default PARTITION OF eve.orchestration_results DEFAULT;
CREATE TABLE eve.attempts_default PARTITION OF eve.attempts DEFAULT;
CREATE TABLE eve.run_logs_default PARTITION OF eve.run_logs DEFAULT;

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION eve.uuid_at(at timestamptz) RETURNS uuid
    LANGUAGE sql IMMUTABLE
    RETURN (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;

-- Makes the partitions of yesterday up to `days_ahead` days ahead, as far as they are missing.
CREATE FUNCTION eve.ensure_partitions(days_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    parent text;
    day    timestamptz;
    made   integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['requests', 'orchestration_results', 'attempts', 'run_logs'] LOOP
        FOR offset_days IN -1 .. least(days_ahead, 30) LOOP
            day := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(days => offset_days);
            IF to_regclass(format('eve.%I', parent || to_char(day AT TIME ZONE 'UTC', '_YYYYMMDD'))) IS NOT NULL THEN
                CONTINUE;
            END IF;
            BEGIN
                EXECUTE format(
                    'CREATE TABLE eve.%I PARTITION OF eve.%I FOR VALUES FROM (%L) TO (%L)',
                    parent || to_char(day AT TIME ZONE 'UTC', '_YYYYMMDD'), parent,
                    eve.uuid_at(day), eve.uuid_at(day + interval '1 day')
                );
                made := made + 1;
            EXCEPTION
                -- Rows of that day are in the default partition already, and stay there; or another
                -- process has just made it.
                WHEN check_violation OR duplicate_table THEN NULL;
            END;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION eve.ensure_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.ensure_partitions(integer) TO eve_engine;
SELECT eve.ensure_partitions(3);

-- Edges. `state` says what has become of the blocker, as far as this dependent is concerned:
-- open, met (it completed, or it failed and the policy is run), held (it failed, policy hold).
CREATE TABLE eve.dependencies (
    org_id        uuid NOT NULL,
    blocker_id    uuid NOT NULL,
    dependent_id  uuid NOT NULL,
    on_failure    text NOT NULL DEFAULT 'cancel' CHECK (on_failure IN ('cancel', 'run', 'hold')),
    state         text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'met', 'held')),
    held_until    timestamptz,
    generation    integer NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (blocker_id, dependent_id),
    CHECK (blocker_id <> dependent_id),
    CHECK ((state = 'held') = (held_until IS NOT NULL))
);
CREATE INDEX dependencies_by_dependent ON eve.dependencies (dependent_id);
CREATE INDEX dependencies_held ON eve.dependencies (held_until) WHERE state = 'held';

-- What happened to an orchestration after it returned; bound to a wake-up when that is claimed.
CREATE TABLE eve.inbox (
    orchestration_id  uuid NOT NULL,
    org_id            uuid NOT NULL,
    source_kind       text NOT NULL
                      CHECK (source_kind IN ('child', 'answer', 'deployment', 'timer', 'cron')),
    source_id         uuid NOT NULL,
    generation        integer NOT NULL DEFAULT 1,
    payload           jsonb NOT NULL DEFAULT '{}',
    wakeup_id         uuid,
    discarded         text,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (orchestration_id, source_kind, source_id, generation)
);
CREATE INDEX inbox_undelivered ON eve.inbox (orchestration_id, created_at)
    WHERE wakeup_id IS NULL AND discarded IS NULL;

-- A key that a client or a guest gave, reserved before the requests exist.
CREATE TABLE eve.idempotency_keys (
    org_id       uuid NOT NULL,
    key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    body_hash    bytea NOT NULL CHECK (length(body_hash) = 32),
    request_ids  uuid[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, key)
);

-- Worker processes. One heartbeat a process, not a run.
CREATE TABLE eve.workers (
    id            uuid PRIMARY KEY,
    worker_type   text NOT NULL,
    host          text NOT NULL,
    version       text NOT NULL,
    fingerprint   text NOT NULL,
    slots         integer NOT NULL CHECK (slots > 0),
    draining      boolean NOT NULL DEFAULT false,
    started_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    beats         bigint NOT NULL DEFAULT 0
);

-- Background duties: who does them, in which epoch, until when. Every transaction of a duty locks
-- its row and checks the epoch, so a process that slept through its lease changes nothing.
CREATE TABLE eve.leadership (
    duty        text PRIMARY KEY,
    holder      uuid,
    epoch       bigint NOT NULL DEFAULT 0,
    expires_at  timestamptz NOT NULL DEFAULT '-infinity'
);

-- The brief's table, as a view: the live arm, and one arm per terminal status with a literal status,
-- so that a count of pending requests never touches results. The live arm looks columns of `requests`
-- up one by one instead of joining: what a query does not name is not looked up, and a count reads
-- `queue` alone (Postgres 15 does not remove a join to a partitioned table).
CREATE VIEW eve.orchestration_requests WITH (security_barrier) AS
SELECT q.id, q.org_id,
       (SELECT r.user_id FROM eve.requests r WHERE r.id = q.id) AS user_id,
       q.worker_type,
       (SELECT r.skill FROM eve.requests r WHERE r.id = q.id) AS skill,
       (SELECT r.prompt FROM eve.requests r WHERE r.id = q.id) AS prompt,
       (SELECT r.context FROM eve.requests r WHERE r.id = q.id) AS context,
       (SELECT r.repo_url FROM eve.requests r WHERE r.id = q.id) AS repo_url,
       (SELECT r.branch FROM eve.requests r WHERE r.id = q.id) AS branch,
       (SELECT r.config FROM eve.requests r WHERE r.id = q.id) AS config,
       (SELECT r.metadata FROM eve.requests r WHERE r.id = q.id) AS metadata,
       (SELECT r.reply_to FROM eve.requests r WHERE r.id = q.id) AS reply_to,
       q.priority,
       (SELECT r.max_attempts FROM eve.requests r WHERE r.id = q.id) AS max_attempts,
       (SELECT r.timeout_ms FROM eve.requests r WHERE r.id = q.id) AS timeout_ms,
       (SELECT r.root_request_id FROM eve.requests r WHERE r.id = q.id) AS root_request_id,
       (SELECT r.parent_request_id FROM eve.requests r WHERE r.id = q.id) AS parent_request_id,
       (SELECT r.created_at FROM eve.requests r WHERE r.id = q.id) AS created_at,
       q.status, q.attempt, q.generation, q.run_at, q.worker_id, q.claimed_at AS started_at,
       NULL::timestamptz AS finished_at
  FROM eve.queue q
 WHERE (SELECT pg_has_role(current_user, 'eve_metrics', 'USAGE'))
    OR q.org_id = (SELECT nullif(current_setting('eve.org_id', true), '')::uuid)
UNION ALL
SELECT r.id, r.org_id, r.user_id, r.worker_type, r.skill, r.prompt, r.context, r.repo_url, r.branch,
       r.config, r.metadata, r.reply_to, r.priority, r.max_attempts, r.timeout_ms, r.root_request_id,
       r.parent_request_id, r.created_at, 'completed', x.attempt, x.generation, NULL, x.worker_id,
       x.started_at, x.finished_at
  FROM eve.orchestration_results x
  JOIN eve.requests r ON r.id = x.request_id
 WHERE x.status = 'completed'
   AND ((SELECT pg_has_role(current_user, 'eve_metrics', 'USAGE'))
        OR x.org_id = (SELECT nullif(current_setting('eve.org_id', true), '')::uuid))
UNION ALL
SELECT r.id, r.org_id, r.user_id, r.worker_type, r.skill, r.prompt, r.context, r.repo_url, r.branch,
       r.config, r.metadata, r.reply_to, r.priority, r.max_attempts, r.timeout_ms, r.root_request_id,
       r.parent_request_id, r.created_at, 'failed', x.attempt, x.generation, NULL, x.worker_id,
       x.started_at, x.finished_at
  FROM eve.orchestration_results x
  JOIN eve.requests r ON r.id = x.request_id
 WHERE x.status = 'failed'
   AND ((SELECT pg_has_role(current_user, 'eve_metrics', 'USAGE'))
        OR x.org_id = (SELECT nullif(current_setting('eve.org_id', true), '')::uuid))
UNION ALL
SELECT r.id, r.org_id, r.user_id, r.worker_type, r.skill, r.prompt, r.context, r.repo_url, r.branch,
       r.config, r.metadata, r.reply_to, r.priority, r.max_attempts, r.timeout_ms, r.root_request_id,
       r.parent_request_id, r.created_at, 'cancelled', x.attempt, x.generation, NULL, x.worker_id,
       x.started_at, x.finished_at
  FROM eve.orchestration_results x
  JOIN eve.requests r ON r.id = x.request_id
 WHERE x.status = 'cancelled'
   AND ((SELECT pg_has_role(current_user, 'eve_metrics', 'USAGE'))
        OR x.org_id = (SELECT nullif(current_setting('eve.org_id', true), '')::uuid));
