import re

from eve_sdk import Outcome, Permanent, Request, completed, db, log, skill

MIGRATIONS = db.read_migrations(__file__)
STATE = db.schema("{{schema}}")


@skill
def run(request: Request) -> Outcome:
    match request.context:
        case {"text": str(text)}:
            words = re.findall(r"[^\W_]+", text.lower())
        case _:
            raise Permanent("the context has no text")
    # Does nothing when nothing is new. A file in migrations/ stays as it is once it has run.
    STATE.migrate(MIGRATIONS)
    # What is done in a schema stays, and a run that fails is tried again: that a text is counted once is
    # what the request's id is for.
    STATE.execute(
        """WITH first AS (INSERT INTO requests (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
           INSERT INTO words (word, times)
           SELECT word, count(*) FROM first, unnest($2::text[]) AS word GROUP BY word
           ON CONFLICT (word) DO UPDATE SET times = words.times + excluded.times""",
        [request.id, words],
    )
    most = list(STATE.query("SELECT word, times FROM words ORDER BY times DESC, word LIMIT 3"))
    log.info("counted", words=len(words))
    shown = ", ".join(f"{row['word']} ({row['times']})" for row in most)
    return completed(f"most often: {shown}", data={"most": most})
