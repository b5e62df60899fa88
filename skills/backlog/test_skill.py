import unittest
from datetime import date, datetime, timezone

import skill
from eve_sdk.testing import Host

ENTRY = {
    "id": 7, "text": "write", "labels": ["docs"], "due": date(2026, 12, 24),
    "created_at": datetime(2026, 11, 24, tzinfo=timezone.utc), "done_at": None,
}


class Backlog(unittest.TestCase):
    def test_an_entry_is_added_once(self):
        host = Host(
            context={"add": "write", "labels": ["docs"], "due": "2026-12-24"},
            db=lambda schema, sql, parameters: [ENTRY],
        )
        run = host.run(skill.run)
        self.assertEqual(run.summary, "added 7: write", run.lines)
        self.assertEqual(run.data["entry"]["due"], "2026-12-24")
        [statement] = run.statements
        self.assertIn("ON CONFLICT (request_id)", statement.sql)
        self.assertEqual(statement.parameters, [host.id, "write", ["docs"], date(2026, 12, 24)])
        self.assertEqual(run.lines[0].fields, {"applied": "[1]"})

    def test_what_is_not_there_cannot_be_finished(self):
        run = Host(context={"done": 9}, db=lambda *_: []).run(skill.run)
        self.assertEqual(run.failure, ("permanent", "there is no entry 9"))

    def test_open_entries_of_a_label(self):
        run = Host(context={"label": "docs"}, db=lambda *_: [ENTRY]).run(skill.run)
        self.assertEqual((run.summary, run.statements[0].parameters), ("1 open", ["docs"]))
        self.assertEqual(run.data["entries"][0]["created_at"], "2026-11-24T00:00:00+00:00")

    def test_bad_input(self):
        for context in [{"add": ""}, {"done": "x"}, {"add": "x", "due": "soon"}, {"add": "x", "labels": "y"}]:
            self.assertEqual(Host(context=context).run(skill.run).failure[0], "permanent", context)


if __name__ == "__main__":
    unittest.main()
