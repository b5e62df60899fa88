-- Roles, organisations, and who may act for them.
--
-- Roles are NOLOGIN and belong to the server, not to one database. An operator's login roles are
-- made members of `eve_control` (control plane) or `eve_worker` (worker pools), and the process
-- switches with SET ROLE: there is one place in the code that does. NOINHERIT, so that a session
-- which has not switched may do nothing.
--
--   eve_control  identity look-ups and platform administration, across organisations
--   eve_tenant   one organisation's data, the organisation set for the transaction
--   eve_guest    what a running skill may read, of one organisation
--   eve_engine   the queue's own tables, across organisations: claim, finish, rescue
--   eve_worker   what a worker process may switch to: engine and guest
--   eve_metrics  worker_type and status of requests, nothing else
--   eve_views    owns the definer views and functions; nobody logs in as it
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY[
        'eve_control', 'eve_tenant', 'eve_guest', 'eve_engine', 'eve_worker', 'eve_metrics', 'eve_views'
    ] LOOP
        -- Databases of one server may be migrated at the same time: both may find it absent.
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    -- Granting takes a lock on catalogue rows, and two at once fail as "tuple concurrently updated":
    -- only what is missing is granted, and a loser of that race finds the other's grant in place.
    FOR role_name IN
        SELECT format('GRANT %I TO %I', member.granted, member.grantee)
          FROM (VALUES
                   ('eve_tenant', 'eve_control'), ('eve_guest', 'eve_control'),
                   ('eve_engine', 'eve_control'), ('eve_engine', 'eve_worker'),
                   ('eve_guest', 'eve_worker'), ('eve_metrics', 'eve_control'),
                   ('eve_control', current_user::text), ('eve_tenant', current_user::text),
                   ('eve_guest', current_user::text), ('eve_engine', current_user::text),
                   ('eve_worker', current_user::text), ('eve_metrics', current_user::text),
                   ('eve_views', current_user::text)
               ) AS member (granted, grantee)
         WHERE NOT EXISTS (
                   SELECT
                     FROM pg_auth_members m
                    WHERE m.roleid = to_regrole(member.granted)
                      AND m.member = to_regrole(quote_ident(member.grantee))
               )
           AND member.granted <> member.grantee
    LOOP
        BEGIN
            EXECUTE role_name;
        EXCEPTION WHEN unique_violation OR internal_error THEN
            NULL;
        END;
    END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS eve;
REVOKE ALL ON SCHEMA eve FROM PUBLIC;
GRANT USAGE ON SCHEMA eve
   TO eve_control, eve_tenant, eve_guest, eve_engine, eve_worker, eve_metrics, eve_views;

-- Supabase brings a schema `auth` with users and auth.uid(). On plain Postgres a stand-in of the
-- same shape takes its place; where it exists, not a line of it is touched.
DO $$
BEGIN
    IF to_regnamespace('auth') IS NULL THEN
        CREATE SCHEMA auth;
        CREATE TABLE auth.users (
            id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            email       text UNIQUE,
            created_at  timestamptz NOT NULL DEFAULT now()
        );
        CREATE FUNCTION auth.uid() RETURNS uuid
            LANGUAGE sql STABLE
            RETURN (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid;
        COMMENT ON SCHEMA auth IS 'Stand-in for Supabase Auth, made by Eve Horizon';
        GRANT USAGE ON SCHEMA auth TO eve_control;
        GRANT SELECT, INSERT ON auth.users TO eve_control;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the schema auth is absent and cannot be made by %', current_user;
END
$$;

CREATE TABLE eve.organizations (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    slug        text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$'),
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    config      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- The platform itself: it owns the skills that every organisation may run. Nobody is a member.
INSERT INTO eve.organizations (id, slug, name)
VALUES ('00000000-0000-0000-0000-000000000000', 'platform', 'Platform');

CREATE TABLE eve.org_members (
    org_id      uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE
                CHECK (org_id <> '00000000-0000-0000-0000-000000000000'),
    user_id     uuid NOT NULL,
    role        text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX org_members_by_user ON eve.org_members (user_id);

-- Who administers the platform. A list of its own: owning an organisation never leads here.
CREATE TABLE eve.platform_admins (
    user_id     uuid PRIMARY KEY,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE eve.api_tokens (
    id            uuid PRIMARY KEY,
    org_id        uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    user_id       uuid,
    name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    prefix        text NOT NULL,
    token_hash    bytea NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    role          text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member')),
    scopes        text[] NOT NULL DEFAULT '{}',
    created_by    uuid,
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz,
    UNIQUE (org_id, id)
);
CREATE INDEX api_tokens_by_org ON eve.api_tokens (org_id);

-- What people, tokens and guests changed. Append-only: no role is granted UPDATE or DELETE.
CREATE TABLE eve.audit_log (
    id          uuid PRIMARY KEY,
    org_id      uuid NOT NULL,
    actor       jsonb NOT NULL,
    action      text NOT NULL,
    target      text NOT NULL,
    details     jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_by_org ON eve.audit_log (org_id, id);

-- Pools of workers. The three kinds of the brief are seeded; a plain INSERT of one of them, as the
-- brief has it, takes the place of the seed and keeps its grants and default skill where the INSERT
-- does not name any.
CREATE TABLE eve.worker_types (
    id             text PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    name           text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    docker_image   text,
    schema_name    text,
    capabilities   text[] NOT NULL DEFAULT '{}',
    config         jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    grants         text[] CHECK (grants <@ ARRAY['queue', 'db', 'deploy']),
    default_skill  text,
    limits         jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
    seeded         boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION eve.replace_seeded_worker_type() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog
AS $$
DECLARE
    seed eve.worker_types;
BEGIN
    DELETE FROM eve.worker_types WHERE id = NEW.id AND seeded RETURNING * INTO seed;
    NEW.grants := coalesce(NEW.grants, seed.grants, ARRAY['queue', 'db']);
    NEW.default_skill := coalesce(NEW.default_skill, seed.default_skill);
    NEW.schema_name := coalesce(NEW.schema_name, seed.schema_name);
    RETURN NEW;
END
$$;
CREATE TRIGGER replace_seed BEFORE INSERT ON eve.worker_types
    FOR EACH ROW EXECUTE FUNCTION eve.replace_seeded_worker_type();

INSERT INTO eve.worker_types (id, name, docker_image, schema_name, capabilities, grants, default_skill, seeded)
VALUES
    ('general', 'General Worker', 'eve-horizon/worker-general:latest', NULL,
     '{}', '{queue,db}', 'echo', true),
    ('deployment', 'Deployment Worker', 'eve-horizon/worker-deployment:latest', NULL,
     '{kubernetes,helm,kubectl,docker}', '{queue,db,deploy}', 'echo', true),
    ('devops-orchestrator', 'DevOps Project Orchestrator', 'eve-horizon/worker-devops-orchestrator:latest',
     'devops_projects', '{deployment,ci-cd,multi-env,rollout-strategies}', '{queue,db,deploy}', 'echo', true);
