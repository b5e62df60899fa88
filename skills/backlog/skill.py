"""A to-do list in the organisation's own database."""

from datetime import date
from typing import Any

from eve_sdk import EveError, Outcome, Permanent, Request, completed, db, log, skill

MIGRATIONS = db.read_migrations(__file__)
BACKLOG = db.schema("backlog")
ENTRY = "id, text, labels, due, created_at, done_at"


@skill
def run(request: Request) -> Outcome:
    applied = BACKLOG.migrate(MIGRATIONS)
    if applied:
        log.info("the schema is up to date", applied=applied)
    match request.context:
        case {"add": str(text)} if text:
            return add(request, text)
        case {"done": int(number)}:
            return finish(number)
        case {"add": _} | {"done": _}:
            raise Permanent("add is a text, done is the number of an entry")
        case context:
            return look(context.get("label"))


def add(request: Request, text: str) -> Outcome:
    labels = request.context.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise Permanent("labels is a list of words")
    try:
        due = date.fromisoformat(request.context["due"]) if "due" in request.context else None
    except (TypeError, ValueError) as error:
        raise Permanent("due is a date such as 2026-12-24") from error
    # The update changes nothing: it makes the statement return the entry of an earlier attempt.
    [entry] = BACKLOG.query(
        f"""INSERT INTO entries (request_id, text, labels, due)
            VALUES ($1::uuid, $2, $3, $4)
            ON CONFLICT (request_id) DO UPDATE SET text = entries.text
            RETURNING {ENTRY}""",
        [request.id, text, labels, due],
    )
    return completed(f"added {entry['id']}: {text}", data={"entry": shown(entry)})


def finish(number: int) -> Outcome:
    try:
        [entry] = BACKLOG.query(
            f"UPDATE entries SET done_at = coalesce(done_at, now()) WHERE id = $1 RETURNING {ENTRY}",
            [number],
            expected_rows=1,
        )
    except EveError as error:
        if error.code == "row_count":
            raise Permanent(f"there is no entry {number}") from None
        raise
    return completed(f"finished {number}: {entry['text']}", data={"entry": shown(entry)})


def look(label: str | None) -> Outcome:
    entries = BACKLOG.query(
        f"""SELECT {ENTRY} FROM entries
             WHERE done_at IS NULL AND ($1::text IS NULL OR $1 = ANY (labels))
             ORDER BY id LIMIT 1000""",
        [label],
    )
    return completed(f"{len(entries)} open", data={"entries": [shown(entry) for entry in entries]})


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as JSON has it."""
    return {name: value.isoformat() if hasattr(value, "isoformat") else value for name, value in entry.items()}
