-- What becomes of the history of deployments: revisions, events and orders are deleted after a time, and all of an
-- environment goes in batches when it is gone. As in 0007, deleting is the owner's, and none of these
-- functions deletes more at a time than it is told.

-- An environment of which nothing shall be undone in its cluster, because that is gone for ever: it is
-- forgotten.
ALTER TABLE eve.environments
    ADD COLUMN abandoned boolean NOT NULL DEFAULT false,
    ADD CHECK (NOT abandoned OR status = 'deleting');

-- Revisions of a deployment by age, and those that ran, latest first: what is kept is not read again and
-- again by whoever looks for what is not.
CREATE INDEX deployment_revisions_by_age ON eve.deployment_revisions (deployment_id, created_at);
CREATE INDEX deployment_revisions_that_ran ON eve.deployment_revisions (deployment_id, revision DESC)
    WHERE ran_at IS NOT NULL;

-- Deletes revisions that were asked for before retention begins: not the latest of a deployment, and of
-- those that ran not the last `ran`, which can be rolled back to. Looks at the `batch` deployments behind
-- `after`, and deletes `most` revisions at most; `next` is where to go on, and null at the end.
CREATE FUNCTION eve.sweep_revisions(
    keep interval, ran integer, after uuid, batch integer, most integer, OUT next uuid, OUT gone integer
)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    seen    uuid[];
BEGIN
    IF ran IS NULL OR ran < 10 THEN
        RAISE EXCEPTION 'at least 10 revisions that ran must be kept, not %', coalesce(ran::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') INTO seen
      FROM (
            SELECT d.id FROM eve.deployments d WHERE d.id > after ORDER BY d.id LIMIT batch
           ) d;
    DELETE FROM eve.deployment_revisions
     WHERE ctid = ANY (ARRAY(
               SELECT old.ctid
                 FROM eve.deployments d
                CROSS JOIN LATERAL (
                          SELECT coalesce((
                                     SELECT r.revision
                                       FROM eve.deployment_revisions r
                                      WHERE r.deployment_id = d.id AND r.ran_at IS NOT NULL
                                      ORDER BY r.revision DESC
                                     OFFSET ran - 1
                                      LIMIT 1), 0) AS first
                      ) kept
                CROSS JOIN LATERAL (
                          SELECT r.ctid
                            FROM eve.deployment_revisions r
                           WHERE r.deployment_id = d.id
                             AND r.created_at < cutoff
                             AND r.revision < d.revision
                             AND (r.ran_at IS NULL OR r.revision < kept.first)
                      ) old
                WHERE d.id = ANY (seen)
                LIMIT most));
    GET DIAGNOSTICS gone = ROW_COUNT;
    next := CASE WHEN gone >= most THEN after
                 WHEN cardinality(seen) = batch THEN seen[batch] END;
END
$$;

-- Deletes up to `batch` events that happened before retention begins. Their ids say when.
CREATE FUNCTION eve.sweep_deployment_events(keep interval, batch integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    gone    integer;
BEGIN
    DELETE FROM eve.deployment_events
     WHERE id = ANY (ARRAY(
               SELECT e.id
                 FROM eve.deployment_events e
                WHERE e.id < eve.uuid_at(cutoff) AND e.created_at < cutoff
                ORDER BY e.id
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

-- Deletes up to `batch` orders of skills that were settled, and whose orchestrations were told, before
-- retention begins. The index deployment_orders_settled finds them.
CREATE FUNCTION eve.sweep_deployment_orders(keep interval, batch integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    cutoff  constant timestamptz := eve.retention_cutoff(keep);
    gone    integer;
BEGIN
    DELETE FROM eve.deployment_orders
     WHERE id = ANY (ARRAY(
               SELECT o.id
                 FROM eve.deployment_orders o
                WHERE o.told_at IS NOT NULL AND o.told_at < cutoff AND o.settled_at < cutoff
                ORDER BY o.settled_at
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;

-- Forgets an environment that is being deleted: up to `batch` rows of what was deployed in it, or, once
-- there are none, itself. Returns whether there is more of it.
CREATE FUNCTION eve.forget_environment(environment uuid, batch integer) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
AS $$
DECLARE
    gone  integer;
BEGIN
    -- Nobody deploys to it meanwhile: whoever does shares a lock of this row.
    PERFORM FROM eve.environments e WHERE e.id = environment AND e.status = 'deleting' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM eve.deployment_events
     WHERE id = ANY (ARRAY(
               SELECT e.id
                 FROM eve.deployments d
                CROSS JOIN LATERAL (
                          SELECT e.id FROM eve.deployment_events e WHERE e.deployment_id = d.id LIMIT batch
                      ) e
                WHERE d.environment_id = environment
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        RETURN true;
    END IF;
    DELETE FROM eve.deployment_revisions
     WHERE ctid = ANY (ARRAY(
               SELECT r.ctid
                 FROM eve.deployments d
                CROSS JOIN LATERAL (
                          SELECT r.ctid FROM eve.deployment_revisions r
                           WHERE r.deployment_id = d.id LIMIT batch
                      ) r
                WHERE d.environment_id = environment
                LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        RETURN true;
    END IF;
    DELETE FROM eve.deployments
     WHERE id = ANY (ARRAY(SELECT d.id FROM eve.deployments d WHERE d.environment_id = environment LIMIT batch));
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        RETURN true;
    END IF;
    DELETE FROM eve.environments WHERE id = environment;
    RETURN false;
END
$$;

REVOKE ALL ON FUNCTION eve.sweep_revisions(interval, integer, uuid, integer, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION eve.sweep_deployment_events(interval, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION eve.sweep_deployment_orders(interval, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION eve.forget_environment(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.sweep_revisions(interval, integer, uuid, integer, integer),
                          eve.sweep_deployment_events(interval, integer),
                          eve.sweep_deployment_orders(interval, integer) TO eve_engine;
GRANT EXECUTE ON FUNCTION eve.forget_environment(uuid, integer) TO eve_control;
