CREATE TABLE anthologies (
    -- The request that proposed it: one that is tried again proposes once.
    request_id uuid PRIMARY KEY,
    title text NOT NULL CHECK (title <> ''),
    words bigint NOT NULL,
    status text NOT NULL DEFAULT 'proposed' CHECK (status IN ('proposed', 'accepted', 'rejected')),
    decided_at timestamptz
);
