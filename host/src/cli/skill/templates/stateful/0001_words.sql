-- How often each word has come.
CREATE TABLE words (
    word   text PRIMARY KEY,
    times  bigint NOT NULL
);

-- Requests whose texts are in there already: a run may be tried again.
CREATE TABLE requests (
    id  uuid PRIMARY KEY
);
