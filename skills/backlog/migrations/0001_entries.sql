CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- A run that is tried again adds its entry once.
    request_id uuid NOT NULL UNIQUE,
    text text NOT NULL CHECK (text <> ''),
    labels text[] NOT NULL DEFAULT '{}',
    due date,
    created_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz
);

CREATE INDEX entries_open ON entries (id) WHERE done_at IS NULL;
