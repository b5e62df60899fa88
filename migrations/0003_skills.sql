-- Skills, their immutable versions, and the machine code compiled from them.

CREATE TABLE eve.skills (
    id              uuid PRIMARY KEY,
    org_id          uuid NOT NULL REFERENCES eve.organizations (id) ON DELETE CASCADE,
    name            text NOT NULL CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    description     text NOT NULL DEFAULT '',
    active_version  uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, name),
    UNIQUE (org_id, id)
);

CREATE TABLE eve.skill_versions (
    id            uuid PRIMARY KEY,
    org_id        uuid NOT NULL,
    skill_id      uuid NOT NULL,
    version       text NOT NULL CHECK (length(version) BETWEEN 1 AND 64),
    sha256        bytea NOT NULL CHECK (length(sha256) = 32),
    size_bytes    bigint NOT NULL CHECK (size_bytes > 0),
    wasm          bytea NOT NULL,                   -- zstd
    manifest      jsonb NOT NULL DEFAULT '{}',
    readme        text NOT NULL DEFAULT '',
    imports       text[] NOT NULL,
    capabilities  text[] NOT NULL,
    created_by    jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (org_id, skill_id) REFERENCES eve.skills (org_id, id) ON DELETE CASCADE,
    UNIQUE (skill_id, version),
    UNIQUE (skill_id, sha256),
    UNIQUE (org_id, id)
);
-- Compressed by us: Postgres need not try again.
ALTER TABLE eve.skill_versions ALTER COLUMN wasm SET STORAGE EXTERNAL;
ALTER TABLE eve.skills
    ADD FOREIGN KEY (org_id, active_version) REFERENCES eve.skill_versions (org_id, id)
    DEFERRABLE INITIALLY DEFERRED;

-- Native code, signed by the control plane. One per version and engine fingerprint.
CREATE TABLE eve.artifacts (
    version_id   uuid NOT NULL,
    org_id       uuid NOT NULL,
    fingerprint  text NOT NULL,
    bytes        bytea NOT NULL,                    -- zstd
    length       bigint NOT NULL CHECK (length > 0),
    -- Of the code itself: what the signature covers, and the name it is cached under.
    sha256       bytea NOT NULL CHECK (octet_length(sha256) = 32),
    signature    bytea NOT NULL CHECK (octet_length(signature) = 64),
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version_id, fingerprint),
    FOREIGN KEY (org_id, version_id) REFERENCES eve.skill_versions (org_id, id) ON DELETE CASCADE
);
ALTER TABLE eve.artifacts ALTER COLUMN bytes SET STORAGE EXTERNAL;
