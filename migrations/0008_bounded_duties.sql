-- Making a partition locks its table whole, and whoever comes after waits behind whoever waits. With a
-- long-running reader in the way it gives up and tries again later: days exist long before they are
-- needed. One table a call, so that no lock is held while another is waited for.
CREATE FUNCTION eve.ensure_partitions_of(parent text, days_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog
    SET lock_timeout = '2s'
AS $$
DECLARE
    day   timestamptz;
    name  text;
    made  integer := 0;
BEGIN
    IF parent NOT IN ('requests', 'orchestration_results', 'attempts', 'run_logs') THEN
        RAISE EXCEPTION '% has no partitions by day', parent
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR offset_days IN -1 .. least(days_ahead, 30) LOOP
        day := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
               + make_interval(days => offset_days);
        name := parent || to_char(day AT TIME ZONE 'UTC', '_YYYYMMDD');
        IF to_regclass(format('eve.%I', name)) IS NOT NULL THEN
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE format('CREATE TABLE eve.%I PARTITION OF eve.%I FOR VALUES FROM (%L) TO (%L)',
                           name, parent, eve.uuid_at(day), eve.uuid_at(day + interval '1 day'));
            made := made + 1;
        EXCEPTION
            -- Rows of that day are in the default partition already, and stay there; or another
            -- process has just made it.
            WHEN check_violation OR duplicate_table THEN NULL;
        END;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION eve.ensure_partitions_of(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION eve.ensure_partitions_of(text, integer) TO eve_engine;
