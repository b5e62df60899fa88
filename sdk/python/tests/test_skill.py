"""The SDK against its own fake platform."""

import unittest
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from eve_sdk import (
    ChildComplete, EveError, HitlResponse, Initial, Permanent, Retryable, SqlError, Timer, completed, db,
    log, queue, skill, waiting,
)
from eve_sdk.testing import Host


class SkillTest(unittest.TestCase):
    def test_a_run_sees_what_it_was_asked_to_do(self):
        def run(request):
            self.assertEqual(request.context, {"text": "a b"})
            self.assertEqual((request.prompt, request.attempt, request.branch), ("count", 2, "main"))
            self.assertEqual((request.repo_url, request.config, request.metadata), (None, {"x": 1}, {}))
            self.assertEqual(request.triggers, [Initial()])
            self.assertEqual(request.deadline.isoformat(), "2026-01-01T00:05:00+00:00")
            return completed("done", data=[1, None], tokens_used=7, cost=0.5)

        host = Host(prompt="count", context={"text": "a b"}, config={"x": 1}, branch="main", attempt=2)
        done = host.run(run)
        self.assertEqual(done.failure, None)
        self.assertEqual((done.summary, done.data, done.tokens_used, done.cost), ("done", [1, None], 7, 0.5))

    def test_how_a_run_fails(self):
        def raising(error):
            def run(_):
                raise error

            return run

        for run, kind, message in [
            (raising(Permanent("no")), "permanent", "^no$"),
            (raising(Retryable("later")), "retryable", "^later$"),
            (raising(ValueError("boom")), "retryable", "^ValueError: boom$"),
            (lambda _: None, "permanent", "returned None instead of"),
            (lambda _: completed("", data=object()), "permanent", "cannot be written as JSON"),
            (lambda _: completed("", data=float("nan")), "permanent", "cannot be written as JSON"),
            (lambda _: completed("", cost=-1), "permanent", "makes no sense"),
            (lambda _: waiting(), "permanent", "nothing is outstanding"),
            (lambda _: queue.get("x"), "permanent", "there is no request x"),
        ]:
            failed = Host().run(run)
            self.assertEqual(failed.status, "failed")
            self.assertEqual(failed.failure[0], kind)
            self.assertRegex(failed.failure[1], message)

    def test_an_exception_is_logged_and_leaves_nothing_behind(self):
        def run(_):
            log.info("before", n=1, none=None)
            queue.create("general")
            raise KeyError("k") from ValueError("the reason")

        failed = Host().run(run)
        self.assertEqual(failed.created, [])
        self.assertEqual(failed.lines[0].fields, {"n": "1", "none": "None"})
        self.assertEqual(failed.lines[1].level, "error")
        self.assertRegex(failed.lines[1].message, "(?s)the reason.*test_skill.py.*KeyError: 'k'")

    def test_an_orchestrator_is_woken_by_its_children(self):
        @skill
        def run(request):
            match request.trigger:
                case Initial():
                    for part in request.context["parts"]:
                        queue.create("general", skill="x", context={"part": part}, reply_to_me=True)
                    return waiting(deadline=timedelta(days=7))
            self.assertEqual(request.context, {"parts": ["a", "b"]})
            self.assertEqual(request.raw_context["trigger"], "child_complete")
            children = queue.children()
            if any(child.is_open for child in children):
                return waiting()
            return completed("all", data=[one.output or one.ended.problem.code for one in children])

        host = Host(context={"parts": ["a", "b"]})
        first = host.run(run)
        self.assertTrue(first.is_waiting, first.failure)
        a, b = first.created
        self.assertEqual((a.context, a.skill, a.reply_to_me), ({"part": "a"}, "x", True))
        with self.assertRaisesRegex(ValueError, "nothing has happened"):
            host.run(run)
        second = host.complete(a.id, {"words": 3}).run(run)
        self.assertEqual(second.triggers, [ChildComplete(a.id, "completed")])
        self.assertEqual(host.fail(b.id).run(run).data, [{"words": 3}, "failed"])
        with self.assertRaisesRegex(ValueError, "has ended"):
            host.run(run)

    def test_questions_timers_and_another_attempt(self):
        @skill
        def run(request):
            match request.trigger:
                case Initial() if request.attempt == 1:
                    raise Retryable("not yet")
                case Initial():
                    queue.ask("Go on?", options=["yes", "no"], details={"n": 1}, expires_in=3600)
                    queue.wake_after(90, "look")
                case HitlResponse(expired=False, response=answer):
                    return completed(answer)
                case Timer("look"):
                    queue.ask("Really?")
            return waiting()

        host = Host()
        self.assertEqual(host.run(run).failure, ("retryable", "not yet"))
        first = host.run(run)
        question = first.questions[0]
        self.assertEqual((question.options, question.expires_in), (["yes", "no"], 3_600_000))
        self.assertEqual(first.timers, {"look": 90_000})
        self.assertTrue(host.expire(question.id).run(run).is_waiting)
        third = host.fire("look").run(run)
        self.assertEqual(host.answer(third.questions[0].id, "yes").run(run).summary, "yes")

    def test_requests_of_a_batch_wait_for_one_another(self):
        def run(_):
            queue.create_many([
                queue.NewRequest("general", prompt="a"),
                queue.NewRequest("general", blocked_by=[0], on_failure="run"),
                queue.NewRequest("general", blocked_by=[0, queue.Blocker(1, "hold")], reply_to_me=True),
            ])
            return waiting()

        host = Host()
        a, b, c = host.run(run).created
        self.assertEqual(c.blocked_by, [(a.id, "cancel"), (b.id, "hold")])
        self.assertEqual([host.status_of(one.id) for one in (a, b, c)], ["pending", "blocked", "blocked"])
        host.fail(a.id)
        self.assertEqual([host.status_of(one.id) for one in (b, c)], ["pending", "cancelled"])

    def test_mistakes_are_errors_with_a_code(self):
        def run(_):
            for act, code, message in [
                (lambda: queue.create(""), "invalid", "worker_type is missing"),
                (lambda: queue.create("general", context=[1]), "invalid", "not a JSON object"),
                (lambda: queue.create("general", context={"x": {1}}), "invalid", "written as JSON"),
                (lambda: queue.create("general", delay="soon"), "invalid", "no length of time"),
                (lambda: queue.create("general", priority=1000), "invalid", "-100 to 100"),
                (lambda: queue.create("general", blocked_by="id"), "invalid", "a list of ids"),
                (lambda: queue.create("general", blocked_by=["nobody"]), "not_found", "nobody"),
                (lambda: queue.create_many([queue.NewRequest("a", blocked_by=[7])]), "invalid", "no earlier"),
                (lambda: queue.get("x"), "not_found", "x"),
                (lambda: queue.list_requests(statuses=["done"]), "invalid", "done"),
                (lambda: queue.wake_after(0.01, "x"), "invalid", "a second"),
                (lambda: queue.ask("?", options=["a", "a"]), "invalid", "twice"),
                (lambda: db.query("x", "SELECT $1", "abc"), "invalid", "parameters are a list"),
                (lambda: db.query("x", "SELECT $1", [object()]), "invalid", r"\$1"),
                (lambda: db.query("x", "SELECT $1", [[1, "a"]]), "invalid", "of one type"),
            ]:
                with self.assertRaisesRegex(EveError, message) as raised:
                    act()
                self.assertEqual(raised.exception.code, code)
            return completed("")

        done = Host().run(run)
        self.assertEqual((done.status, done.created), ("completed", []), done.lines)

    def test_values_go_to_the_database_and_come_back(self):
        values = {
            "n": None, "b": True, "i": 7, "f": 1.5, "big": 2**62, "huge": Decimal(2**70), "num": Decimal("1.10"),
            "s": "text", "bytes": b"\x00\xff", "at": datetime(2026, 11, 24, 16, 30, 0, 123456, timezone.utc),
            "day": date(2026, 11, 24), "id": UUID(int=7), "o": {"a": [1]}, "list": [1, 2, None],
            "texts": ["a"], "none": [], "days": [date(2026, 1, 1)], "mixed": [1.0, 1.5],
        }
        seen = []

        def database(schema, sql, parameters):
            seen.extend(parameters)
            return [values]

        def run(_):
            more = [db.Json([1]), db.Array("integer", []), 2**70]
            rows = db.schema("s").query("SELECT", [*values.values(), *more])
            self.assertEqual(rows, [values])
            self.assertEqual((rows.affected, [column.name for column in rows.columns]), (1, list(values)))
            return completed("")

        self.assertEqual(Host(db=database).run(run).failure, None)
        self.assertEqual(seen, [*values.values(), [1], [], Decimal(2**70)])

    def test_transactions_expected_rows_errors_and_migrations(self):
        def database(schema, sql, parameters):
            if sql.startswith("INSERT"):
                raise SqlError("23505", "duplicate", constraint="k")
            return 0 if sql.startswith("UPDATE") else [{"x": 1}]

        def run(_):
            steps = [db.Migration(1, "first", "CREATE TABLE t ()"), db.Migration(2, "second", "")]
            self.assertEqual(db.migrate("s", steps), [1, 2])
            self.assertEqual(db.migrate("s", steps), [])
            with self.assertRaises(EveError) as raised:
                db.migrate("s", [db.Migration(1, "first", "DROP")])
            self.assertEqual(raised.exception.code, "migration")
            one, two = db.transaction("s", ["SELECT 1", db.Statement("UPDATE", [1])])
            self.assertEqual((one[0]["x"], two.affected), (1, 0))
            with self.assertRaises(EveError) as raised:
                db.execute("s", "UPDATE", expected_rows=1)
            self.assertEqual(raised.exception.code, "row_count")
            with self.assertRaises(SqlError) as raised:
                db.execute("s", "INSERT")
            self.assertEqual((raised.exception.sql_state, raised.exception.constraint), ("23505", "k"))
            return completed(str(db.execute("s", "UPDATE")))

        self.assertEqual(Host(db=database).run(run).summary, "0")

    def test_outside_a_run_the_platform_answers_nothing(self):
        with self.assertRaisesRegex(RuntimeError, "outside a run"):
            queue.children()


if __name__ == "__main__":
    unittest.main()
