-- Retention: what has ended is deleted after a time. Whole days are dropped, and what is still needed
-- of them moves to the default partitions; from there, and from the tables that have no partitions,
-- rows go in small batches.
--
-- A row is still needed while its request is open, ended within the retention time, or is referred to
-- by an open one (`eve.referenced`). Everything here belongs to the owner of the tables: the engine's
-- role may not delete what was asked for, only have it done, and only past the least age.

-- Children, oldest first, of one organisation: with the parent alone, a planner that knows nothing of
-- a new partition takes the organisation's index as readily, and reads all its rows.
DROP INDEX eve.requests_by_parent;
CREATE INDEX requests_by_parent ON eve.requests (parent_request_id, org_id, id)
    WHERE parent_request_id IS NOT NULL;

-- A request and everything below it, level by level, `most` at most. Under row-level security, and with
-- statistics of a day that is nearly all one fan-out, a planner reads all of an organisation, or all of
-- a table, for every node of the tree. As the owner's function it has one index to take and nothing
-- else; it takes the organisation from the transaction, never from its caller.
CREATE FUNCTION eve.descendants(in_id uuid, most bigint) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog
    SET enable_seqscan = off
    SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    org constant uuid := nullif(current_setting('eve.org_id', true), '')::uuid;
BEGIN
    RETURN QUERY
    WITH RECURSIVE tree (id) AS (
        SELECT r.id FROM eve.requests r WHERE r.id = in_id AND r.org_id = org
         UNION ALL
        SELECT r.id
          FROM tree
         CROSS JOIN LATERAL (
                   SELECT r.id, r.org_id FROM eve.requests r
                    WHERE r.parent_request_id = tree.id
                   OFFSET 0
               ) r
         WHERE r.org_id = org
    )
    SELECT tree.id FROM tree LIMIT most;
END
$$;
GRANT CREATE ON SCHEMA eve TO eve_views;
ALTER FUNCTION eve.descendants(uuid, bigint) OWNER TO eve_views;
REVOKE CREATE ON SCHEMA eve FROM eve_views;
REVOKE ALL ON FUNCTION eve.descendants(uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.descendants(uuid, bigint) TO eve_tenant;

-- Keys are found by their age.
CREATE INDEX idempotency_keys_by_age ON eve.idempotency_keys (created_at);

-- What ended before this instant may go. The least is the longest run, a day, and grace: ids are made
-- while a run goes on, and their rows are inserted when it ends.
CREATE FUNCTION eve.retention_cutoff(keep interval) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path = pg_catalog
AS $$
BEGIN
    IF keep IS NULL OR keep < interval '26 hours' THEN
        RAISE EXCEPTION 'retention must be at least 26 hours, not %', coalesce(keep::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN clock_timestamp() - keep;
END
$$;

-- The first instant of a day, which is where its partitions begin.
CREATE FUNCTION eve.day_begins(day date) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE
    RETURN day::timestamp AT TIME ZONE 'UTC';

-- Days that have partitions and are past retention, the oldest first.
CREATE FUNCTION eve.expired_days(keep interval) RETURNS SETOF date
    LANGUAGE plpgsql
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff constant timestamptz := eve.retention_cutoff(keep);
BEGIN
    RETURN QUERY
    SELECT DISTINCT d.day
      FROM pg_inherits i
      JOIN pg_class c ON c.oid = i.inhrelid
     CROSS JOIN LATERAL (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day) d
     WHERE i.inhparent IN ('eve.requests'::regclass, 'eve.orchestration_results'::regclass,
                           'eve.attempts'::regclass, 'eve.run_logs'::regclass)
       AND c.relname ~ '_[0-9]{8}$'
       AND eve.day_begins(d.day + 1) <= cutoff
     ORDER BY d.day;
END
$$;

-- Requests of a range of ids that something open refers to: its ancestors, its descendants, what it
-- waits for or what waits for it, who hears of its end, who asked. The queue leads everywhere, so the
-- cost goes with what is open, not with the history. OFFSET 0 keeps the planner to one look-up by
-- index for each: it would hash the whole history instead.
CREATE FUNCTION eve.referenced(first_id uuid, end_id uuid) RETURNS SETOF uuid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog
AS $$
    WITH RECURSIVE up (id, parent, root, orchestration) AS (
        SELECT r.id, r.parent_request_id, r.root_request_id, r.orchestration_id
          FROM eve.queue q
         CROSS JOIN LATERAL (
                   SELECT * FROM eve.requests r
                    WHERE r.id = q.id AND r.parent_request_id IS NOT NULL
                      AND r.root_request_id < end_id
                   OFFSET 0
               ) r
         UNION
        SELECT r.id, r.parent_request_id, r.root_request_id, r.orchestration_id
          FROM up
         CROSS JOIN LATERAL (SELECT * FROM eve.requests r WHERE r.id = up.parent OFFSET 0) r
    ), down (id) AS (
        SELECT q.id FROM eve.queue q WHERE q.id < end_id
         UNION
        SELECT r.id
          FROM down
         CROSS JOIN LATERAL (
                   SELECT r.id FROM eve.requests r
                    WHERE r.parent_request_id = down.id AND r.id < end_id
                   OFFSET 0
               ) r
    )
    SELECT k.id
      FROM (
            SELECT up.id FROM up
             UNION
            SELECT up.parent FROM up
             UNION
            SELECT up.root FROM up
             UNION
            SELECT up.orchestration FROM up
             UNION
            SELECT down.id FROM down
             UNION
            SELECT d.blocker_id
              FROM eve.dependencies d
              JOIN eve.queue q ON q.id = d.dependent_id
             WHERE d.blocker_id >= first_id AND d.blocker_id < end_id
             UNION
            SELECT d.dependent_id
              FROM eve.dependencies d
              JOIN eve.queue q ON q.id = d.blocker_id
             WHERE d.dependent_id >= first_id AND d.dependent_id < end_id
             UNION
            SELECT q.reply_to FROM eve.queue q WHERE q.reply_to >= first_id AND q.reply_to < end_id
             UNION
            SELECT h.request_id
              FROM eve.hitl_requests h
             WHERE h.status = 'open' AND h.request_id >= first_id AND h.request_id < end_id
           ) k (id)
     WHERE k.id >= first_id AND k.id < end_id
$$;

-- Drops the partitions of one day, all four tables together, after moving what is still needed to the
-- default partitions. The outcome is
--   dropped   done
--   busy      somebody held a lock for too long: nothing has changed, try again
--   crowded   more is needed than can be moved while everybody waits: nothing has changed
--
-- Detaching a partition locks its parent against everybody, so all that takes time comes before:
-- 1. EXCLUSIVE on the day's own partitions. Reading goes on. Ending, retrying and waiting for requests
--    of that day waits, so what is needed of it cannot change any more. The defaults are locked against
--    vacuum only.
-- 2. What is needed is found.
-- 3. ACCESS EXCLUSIVE on the parents: two seconds for the first, while no parent is held. Whoever then
--    holds one and waits for another would be killed as a deadlock after deadlock_timeout, one second:
--    the others together get less than that.
-- 4. Detach, move, drop.
CREATE FUNCTION eve.drop_day(day date, keep interval, OUT outcome text, OUT survivors integer)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
    SET lock_timeout = '2s'
AS $$
DECLARE
    -- What is moved while everybody waits: about a second's work.
    most_rows   constant integer := 20000;
    most_bytes  constant bigint := 64 * 1024 * 1024;
    parents     constant text[] := ARRAY['requests', 'orchestration_results', 'attempts', 'run_logs'];
    cutoff      constant timestamptz := eve.retention_cutoff(keep);
    first_id    constant uuid := eve.uuid_at(eve.day_begins(day));
    end_id      constant uuid := eve.uuid_at(eve.day_begins(day + 1));
    suffix      constant text := to_char(day, '_YYYYMMDD');
    parent      text;
    columns     text;
    kept        uuid[];
    bytes       bigint;
BEGIN
    IF eve.day_begins(day + 1) > cutoff THEN
        RAISE EXCEPTION '% is not past retention', day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    survivors := 0;
    FOREACH parent IN ARRAY parents LOOP
        EXECUTE format('LOCK TABLE ONLY eve.%I IN SHARE UPDATE EXCLUSIVE MODE', parent || '_default');
        IF to_regclass(format('eve.%I', parent || suffix)) IS NOT NULL THEN
            EXECUTE format('LOCK TABLE ONLY eve.%I IN EXCLUSIVE MODE', parent || suffix);
        END IF;
    END LOOP;

    SELECT coalesce(array_agg(needed.id), '{}') INTO kept
      FROM (
            SELECT q.id FROM eve.queue q WHERE q.id >= first_id AND q.id < end_id
             UNION
            SELECT x.request_id
              FROM eve.orchestration_results x
             WHERE x.request_id >= first_id AND x.request_id < end_id AND x.finished_at >= cutoff
             UNION
            SELECT eve.referenced(first_id, end_id)
             LIMIT most_rows + 1
           ) needed (id);
    SELECT coalesce(sum(size), 0) INTO bytes
      FROM (
            SELECT pg_column_size(prompt) + pg_column_size(context) + pg_column_size(config)
                   + pg_column_size(metadata)
              FROM eve.requests
             WHERE id = ANY (kept)
             UNION ALL
            SELECT coalesce(pg_column_size(summary), 0) + coalesce(pg_column_size(data), 0)
                   + coalesce(pg_column_size(error_message), 0)
              FROM eve.orchestration_results
             WHERE request_id = ANY (kept)
             UNION ALL
            SELECT pg_column_size(message) FROM eve.attempts WHERE request_id = ANY (kept)
             UNION ALL
            SELECT pg_column_size(lines) FROM eve.run_logs WHERE request_id = ANY (kept)
           ) sizes (size);
    survivors := cardinality(kept);
    IF survivors > most_rows OR bytes > most_bytes THEN
        outcome := 'crowded';
        RETURN;
    END IF;

    LOCK TABLE ONLY eve.requests IN ACCESS EXCLUSIVE MODE;
    PERFORM set_config('lock_timeout', '250ms', true);
    LOCK TABLE ONLY eve.orchestration_results IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE ONLY eve.attempts IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE ONLY eve.run_logs IN ACCESS EXCLUSIVE MODE;
    FOREACH parent IN ARRAY parents LOOP
        IF to_regclass(format('eve.%I', parent || suffix)) IS NULL THEN
            CONTINUE;
        END IF;
        EXECUTE format('ALTER TABLE eve.%I DETACH PARTITION eve.%I', parent, parent || suffix);
        -- By name: a column that was added later may stand elsewhere in the partition.
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO columns
          FROM pg_attribute a
         WHERE a.attrelid = format('eve.%I', parent)::regclass AND a.attnum > 0 AND NOT a.attisdropped;
        EXECUTE format(
            'INSERT INTO eve.%1$I (%2$s) SELECT %2$s FROM eve.%3$I WHERE %4$I = ANY ($1)',
            parent, columns, parent || suffix, CASE parent WHEN 'requests' THEN 'id' ELSE 'request_id' END
        ) USING kept;
        EXECUTE format('DROP TABLE eve.%I', parent || suffix);
    END LOOP;
    outcome := 'dropped';
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    outcome := 'busy';
END
$$;

-- Deletes requests from the default partition that are past retention and not needed any more, with all
-- that hangs on them: it looks at `batch` of them, those after `after`. `next` is where to go on, null at
-- the end. Results are locked before it is found out who is needed: nobody can wait for a locked one, or
-- retry it. What somebody else has locked is left for another time, so this waits for nobody.
CREATE FUNCTION eve.sweep_requests(
    keep interval, after uuid, batch integer, OUT next uuid, OUT gone integer
)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    seen    uuid[];
    doomed  uuid[];
BEGIN
    gone := 0;
    SELECT coalesce(array_agg(r.id ORDER BY r.id), '{}') INTO seen
      FROM (
            SELECT r.id
              FROM eve.requests_default r
             WHERE r.id > after AND r.id < eve.uuid_at(cutoff)
             ORDER BY r.id
             LIMIT batch
           ) r;
    IF cardinality(seen) = batch THEN
        next := seen[batch];
    END IF;
    SELECT coalesce(array_agg(x.request_id), '{}') INTO doomed
      FROM (
            SELECT x.request_id
              FROM eve.orchestration_results x
             WHERE x.request_id = ANY (seen) AND x.finished_at < cutoff
               FOR UPDATE SKIP LOCKED
           ) x;
    -- Of a few days the partitions of the four tables may not match: a request without an end was
    -- bereft of its result when those of that day were dropped.
    SELECT doomed || coalesce(array_agg(s.id), '{}') INTO doomed
      FROM unnest(seen) s (id)
     WHERE (SELECT q.id FROM eve.queue q WHERE q.id = s.id) IS NULL
       AND (SELECT x.request_id FROM eve.orchestration_results x WHERE x.request_id = s.id) IS NULL;
    IF cardinality(doomed) = 0 THEN
        RETURN;
    END IF;
    SELECT coalesce(array_agg(d.id), '{}') INTO doomed
      FROM unnest(doomed) d (id)
     WHERE NOT EXISTS (SELECT FROM eve.referenced(seen[1], eve.uuid_at(cutoff)) n (id) WHERE n.id = d.id);
    DELETE FROM eve.run_logs WHERE request_id = ANY (doomed);
    DELETE FROM eve.attempts WHERE request_id = ANY (doomed);
    DELETE FROM eve.orchestration_results WHERE request_id = ANY (doomed);
    DELETE FROM eve.requests WHERE id = ANY (doomed);
    gone := cardinality(doomed);
END
$$;

-- Deletes what hangs on requests that are gone from the other default partitions, `batch` of each at
-- most. There is some only where the partitions of a day did not match.
CREATE FUNCTION eve.sweep_remains(keep interval, batch integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    parent  text;
    part    integer;
    gone    integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['orchestration_results', 'attempts', 'run_logs'] LOOP
        EXECUTE format(
            'DELETE FROM eve.%1$I
              WHERE ctid = ANY (ARRAY(
                        SELECT o.ctid FROM eve.%1$I o
                         WHERE o.request_id < $1
                           AND (SELECT r.id FROM eve.requests r WHERE r.id = o.request_id) IS NULL
                         LIMIT $2))',
            parent || '_default'
        ) USING eve.uuid_at(cutoff), batch;
        GET DIAGNOSTICS part = ROW_COUNT;
        gone := gone + part;
    END LOOP;
    RETURN gone;
END
$$;

-- Deletes edges of which one end is gone: such an edge holds nobody back. Looks at `batch` of them.
CREATE FUNCTION eve.sweep_edges(
    keep interval, after_blocker uuid, after_dependent uuid, batch integer,
    OUT next_blocker uuid, OUT next_dependent uuid, OUT gone integer
)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff      constant timestamptz := eve.retention_cutoff(keep);
    blockers    uuid[];
    dependents  uuid[];
BEGIN
    SELECT coalesce(array_agg(d.blocker_id ORDER BY d.blocker_id, d.dependent_id), '{}'),
           coalesce(array_agg(d.dependent_id ORDER BY d.blocker_id, d.dependent_id), '{}')
      INTO blockers, dependents
      FROM (
            SELECT d.blocker_id, d.dependent_id
              FROM eve.dependencies d
             WHERE (d.blocker_id, d.dependent_id) > (after_blocker, after_dependent)
               AND d.blocker_id < eve.uuid_at(cutoff)
             ORDER BY d.blocker_id, d.dependent_id
             LIMIT batch
           ) d;
    IF cardinality(blockers) = batch THEN
        next_blocker := blockers[batch];
        next_dependent := dependents[batch];
    END IF;
    DELETE FROM eve.dependencies d
     USING unnest(blockers, dependents) s (blocker, dependent)
     WHERE d.blocker_id = s.blocker AND d.dependent_id = s.dependent
       AND ((SELECT r.id FROM eve.requests r WHERE r.id = s.blocker) IS NULL
            OR (SELECT r.id FROM eve.requests r WHERE r.id = s.dependent) IS NULL);
    GET DIAGNOSTICS gone = ROW_COUNT;
END
$$;

-- Deletes what has happened to orchestrations that are gone. Looks at `batch` rows of orchestrations
-- after `after`.
CREATE FUNCTION eve.sweep_inbox(
    keep interval, after uuid, batch integer, OUT next uuid, OUT gone integer
)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    seen    uuid[];
BEGIN
    SELECT coalesce(array_agg(i.orchestration_id ORDER BY i.orchestration_id), '{}') INTO seen
      FROM (
            SELECT i.orchestration_id
              FROM eve.inbox i
             WHERE i.orchestration_id > after AND i.orchestration_id < eve.uuid_at(cutoff)
             ORDER BY i.orchestration_id
             LIMIT batch
           ) i;
    DELETE FROM eve.inbox
     WHERE ctid = ANY (ARRAY(
               SELECT i.ctid
                 FROM eve.inbox i
                WHERE i.orchestration_id = ANY (seen)
                  AND (SELECT r.id FROM eve.requests r WHERE r.id = i.orchestration_id) IS NULL
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    -- An orchestration may have more rows than a batch: it is left behind only once nothing of it goes.
    IF gone > 0 THEN
        next := after;
    ELSIF cardinality(seen) = batch THEN
        next := seen[batch];
    END IF;
END
$$;

-- Deletes questions that were settled before retention begins, unless whoever asked is open. Looks at
-- `batch` of them.
CREATE FUNCTION eve.sweep_questions(
    keep interval, after uuid, batch integer, OUT next uuid, OUT gone integer
)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    seen    uuid[];
BEGIN
    SELECT coalesce(array_agg(h.id ORDER BY h.id), '{}') INTO seen
      FROM (
            SELECT h.id
              FROM eve.hitl_requests h
             WHERE h.id > after AND h.id < eve.uuid_at(cutoff)
             ORDER BY h.id
             LIMIT batch
           ) h;
    IF cardinality(seen) = batch THEN
        next := seen[batch];
    END IF;
    DELETE FROM eve.hitl_requests h
     WHERE h.id = ANY (seen) AND h.status <> 'open' AND h.ended_at < cutoff
       AND (SELECT q.id FROM eve.queue q WHERE q.id = h.request_id) IS NULL;
    GET DIAGNOSTICS gone = ROW_COUNT;
END
$$;

-- Deletes up to `batch` idempotency keys that were given before retention begins and whose requests are
-- gone. The same key creates something new from then on.
CREATE FUNCTION eve.sweep_keys(keep interval, batch integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    gone    integer;
BEGIN
    DELETE FROM eve.idempotency_keys
     WHERE ctid = ANY (ARRAY(
               SELECT k.ctid
                 FROM eve.idempotency_keys k
                WHERE k.created_at < cutoff
                  AND (SELECT r.id FROM eve.requests r WHERE r.id = ANY (k.request_ids) LIMIT 1) IS NULL
                ORDER BY k.created_at
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

-- Deletes up to `batch` ticks of schedules that are past retention.
CREATE FUNCTION eve.sweep_ticks(keep interval, batch integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    gone    integer := 0;
BEGIN
    DELETE FROM eve.schedule_ticks
     WHERE ctid = ANY (ARRAY(
               SELECT t.ctid
                 FROM eve.schedules s
                CROSS JOIN LATERAL (
                          SELECT t.ctid FROM eve.schedule_ticks t
                           WHERE t.schedule_id = s.id AND t.tick < cutoff
                           ORDER BY t.tick
                           LIMIT batch
                      ) t
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

DO $$
DECLARE
    duty text;
BEGIN
    FOREACH duty IN ARRAY ARRAY[
        'expired_days(interval)', 'drop_day(date, interval)', 'sweep_requests(interval, uuid, integer)',
        'sweep_remains(interval, integer)', 'sweep_edges(interval, uuid, uuid, integer)',
        'sweep_inbox(interval, uuid, integer)', 'sweep_questions(interval, uuid, integer)',
        'sweep_keys(interval, integer)', 'sweep_ticks(interval, integer)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION eve.%s FROM PUBLIC', duty);
        EXECUTE format('GRANT EXECUTE ON FUNCTION eve.%s TO eve_engine', duty);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION eve.referenced(uuid, uuid) FROM PUBLIC;
