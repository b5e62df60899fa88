"""Deployments: the SDK against its own fake platform."""

import unittest
from collections.abc import Mapping
from datetime import datetime, timezone

from eve_sdk import DeploymentSettled, EveError, Initial, Retryable, completed, deploy, skill, waiting
from eve_sdk.testing import Change, Deployed, Environment, Host, LogLine

DIGEST = f"sha256:{'0a' * 32}"


class Twice(Mapping):
    """A mapping that says a name twice, as those of headers do."""

    def __iter__(self):
        return iter(["A", "A"])

    def __len__(self):
        return 2

    def __getitem__(self, name):
        return "1"


class DeployTest(unittest.TestCase):
    def inside(self, host, act):
        """Runs what is asserted inside a run, so that its failure is the test's."""
        run = host.run(lambda _: act() or completed(""))
        self.assertIsNone(run.failure, run.lines)
        return run

    def refused(self, code, message, act):
        with self.assertRaisesRegex(EveError, message) as raised:
            act()
        self.assertEqual(raised.exception.code, code)

    def test_what_is_asked_for_is_pending_numbered_and_settles(self):
        seen = {}

        @skill
        def run(request):
            self.assertEqual(request.context, {})
            match request.trigger:
                case Initial():
                    self.assertEqual(deploy.environments(), [Environment("dev"), Environment("prod", approval=True)])
                    self.refused("not_found", "api in prod", lambda: deploy.status("prod", "api"))
                    id = seen["id"] = deploy.create(
                        "prod", "api", image="acme/api:v1", replicas=3, env_vars={"B": "2", "A": "1"},
                        settings={"port": 80}, register=True,
                    )
                    self.assertEqual(
                        deploy.status("prod", "api"),
                        deploy.Deployment(
                            id, "api", "prod", "pending", "acme/api:v1", "v1", 0,
                            deploy.Replicas(3, 0), [], None, None,
                            {"port": 80, "variables": ["A", "B"]}, datetime(2026, 1, 1, tzinfo=timezone.utc),
                        ),
                    )
                    self.assertFalse(deploy.status("prod", "api").is_settled)
                    self.assertEqual(deploy.history("prod", "api"), [])
                    return waiting()
                case DeploymentSettled(id, "running", None):
                    one = deploy.status("prod", "api")
                    self.assertEqual((one.id, one.state, one.is_settled), (id, "running", True))
                    self.assertEqual((one.revision, one.replicas.ready), (1, 3))
                    self.assertEqual(one.pods[0], deploy.Pod("api-0", "Running", True, 0, "v1"))
                    listed = deploy.list_deployments("prod")
                    self.assertEqual([(other.app, other.pods) for other in listed], [("api", [])])
                    self.assertEqual(deploy.list_deployments("dev"), [])
                    return completed("there")

        host = Host(environments=[Environment("prod", approval=True), "dev"])
        first = host.run(run)
        self.assertTrue(first.is_waiting, first.lines)
        self.assertEqual(
            first.deployed,
            [
                Change(
                    "create", seen["id"], "prod", "api", "acme/api:v1", 3, {"A": "1", "B": "2"}, {"port": 80}, True
                )
            ],
        )
        self.assertEqual(host.state_of(seen["id"]), "pending")
        with self.assertRaisesRegex(ValueError, "nothing has happened"):
            host.run(run)
        done = host.settle(seen["id"], "running").run(run)
        self.assertEqual(done.summary, "there", done.lines)
        with self.assertRaisesRegex(ValueError, "settled already"):
            host.settle(seen["id"], "running")

    def test_a_failure_says_why_and_nothing_of_a_failed_run_happens(self):
        @skill
        def run(request):
            if isinstance(request.trigger, Initial):
                deploy.create("prod", "api", image="acme/api:v2")
                if request.attempt == 1:
                    raise Retryable("not yet")
                return waiting()
            one = deploy.status("prod", "api")
            self.assertEqual(
                (one.state, one.reason, one.message, one.replicas.ready), ("failed", "crash_loop", "it exits", 1)
            )
            latest, before = deploy.history("prod", "api", limit=2)
            self.assertEqual((latest.revision, latest.kind, latest.outcome), (2, "updated", "failed"))
            self.assertEqual((latest.reason, latest.message), ("crash_loop", "it exits"))
            self.assertEqual((before.revision, before.outcome), (1, "running"))
            self.assertEqual(before.settled_at, datetime(2026, 1, 1, tzinfo=timezone.utc))
            return completed(request.trigger.reason)

        host = Host(deployments=[Deployed("prod", "api", "acme/api:v1")])
        failed = host.run(run)
        self.assertEqual((failed.failure, failed.deployed), (("retryable", "not yet"), []))
        (change,) = host.run(run).deployed
        done = host.settle(change.id, "failed", "crash_loop", "it exits").run(run)
        self.assertEqual(done.summary, "crash_loop", done.lines)

    def test_what_a_change_does_not_say_stays_as_it_is(self):
        def look():
            one = deploy.status("prod", "api")
            return (one.version, one.replicas.desired, one.config, one.revision)

        def act():
            deploy.create("prod", "api", image="a:2", settings={"cpu": "2", "command": [], "port": None})
            self.assertEqual(look(), ("2", 2, {"port": 80, "cpu": "2", "variables": ["A"]}, 1))
            deploy.scale("prod", "api", 0)
            deploy.create("prod", "api", image="a", env_vars={})
            self.assertEqual(look(), ("latest", 0, {"port": 80, "cpu": "2", "variables": []}, 1))
            deploy.create("prod", "api", image="a", settings={"autoscale": {"min": 1, "max": 3}})
            self.refused("conflict", "1 to 3 replicas", lambda: deploy.scale("prod", "api", 1))
            deploy.create("prod", "api", image="a", replicas=4)
            deploy.scale("prod", "api", 5)
            self.assertEqual(deploy.status("prod", "api").replicas.desired, 5)

        given = Deployed("prod", "api", "a:1", 2, env_vars={"A": "1"}, settings={"port": 80, "cpu": "1"})
        self.inside(Host(deployments=[given]), act)

    def test_rolling_back_goes_to_what_ran(self):
        def act():
            rollback = deploy.rollback
            self.refused("conflict", "these did: 3, 2, 1$", lambda: rollback("prod", "api", version="9"))
            self.refused("conflict", "these did: 3, 2, 1$", lambda: rollback("prod", "api", revision=9))
            deploy.scale("prod", "api", 5)
            rollback("prod", "api")
            one = deploy.status("prod", "api")
            self.assertEqual((one.version, one.replicas.desired), ("2", 5))
            rollback("prod", "api", version="1")
            rollback("prod", "api", revision=3)
            self.assertEqual(deploy.status("prod", "api").version, "3")
            return waiting()

        def look():
            self.assertEqual(
                [(one.revision, one.kind, one.version, one.outcome) for one in deploy.history("prod", "api")],
                [
                    (7, "rolled_back", "3", "running"), (6, "rolled_back", "1", "superseded"),
                    (5, "rolled_back", "2", "superseded"), (4, "scaled", "3", "superseded"),
                    (3, "updated", "3", "running"), (2, "updated", "2", "running"), (1, "created", "1", "running"),
                ],
            )

        host = Host(deployments=[Deployed("prod", "api", "a:3", 2, before=["a:1", "a:2"])])
        changes = self.inside(host, act).deployed
        id = changes[0].id
        self.assertEqual(
            changes,
            [
                Change("scale", id, "prod", "api", replicas=5),
                Change("rollback", id, "prod", "api"),
                Change("rollback", id, "prod", "api", version="1"),
                Change("rollback", id, "prod", "api", revision=3),
            ],
        )
        self.inside(host.settle(id, "running"), look)
        first = Host(deployments=[Deployed("prod", "api", "a:1")])
        self.inside(
            first, lambda: self.refused("conflict", "no other version", lambda: deploy.rollback("prod", "api"))
        )

    def test_what_is_deleted_is_gone_and_can_be_deployed_anew(self):
        @skill
        def run(request):
            match request.trigger:
                case Initial():
                    deploy.delete("prod", "api")
                    self.assertEqual(deploy.status("prod", "api").state, "pending")
                    self.refused("not_found", "api", lambda: deploy.scale("prod", "api", 1))
                    return waiting()
                case DeploymentSettled(status="stopped"):
                    self.assertEqual(deploy.status("prod", "api").state, "stopped")
                    self.assertEqual(deploy.list_deployments(), [])
                    self.assertEqual(len(deploy.history("prod", "api")), 1)
                    deploy.create("prod", "api", image="a:2")
                    one = deploy.status("prod", "api")
                    self.assertEqual((one.replicas.desired, one.config), (1, {"variables": []}))
                    return completed("anew")

        host = Host(deployments=[Deployed("prod", "api", "a:1", 3, env_vars={"A": "1"})])
        (change,) = host.run(run).deployed
        self.assertEqual((change.kind, host.state_of(change.id)), ("delete", "deploying"))
        with self.assertRaisesRegex(ValueError, "settles as stopped"):
            host.settle(change.id, "running")
        done = host.settle(change.id, "stopped").run(run)
        self.assertEqual(done.summary, "anew", done.lines)

    def test_mistakes_are_errors_with_a_code(self):
        def create(env="dev", app="api", **more):
            return lambda: deploy.create(env, app, **{"image": "a:1", **more})

        def act():
            for code, message, call in [
                ("invalid", "env is missing", create("")),
                ("invalid", "app: 7 is not a str", create(app=7)),
                ("invalid", "image is missing", create(image="")),
                ("invalid", "register", create(register=1)),
                ("invalid", "0 to 1000", create(replicas=1001)),
                ("invalid", "0 to 1000", create(replicas=-1)),
                ("invalid", "0 to 1000", create(replicas=True)),
                ("invalid", "A: is of type int, not str$", create(env_vars={"A": 1})),
                ("invalid", "of type list, not a mapping", create(env_vars=[("A", "secret")])),
                ("invalid", "variable's name", create(env_vars={"A-B": "x"})),
                ("invalid", r"U\+0000", create(env_vars={"A": "\0"})),
                ("invalid", "A: is given twice", create(env_vars=Twice())),
                ("invalid", "bytes together", create(env_vars={"A": "x" * 600_000})),
                ("invalid", "settings: is not a JSON object", create(settings=[])),
                ("invalid", "written as JSON", create(settings={"x": {1}})),
                ("invalid", "settings: exceeds", create(settings={"x": "x" * 70_000})),
                ("invalid", "settings.port", create(settings={"port": 0})),
                ("invalid", "settings.port", create(settings={"port": "80"})),
                ("invalid", "settings.port", create(settings={"port": True})),
                ("invalid", "settings.health_path", create(settings={"health_path": "healthz"})),
                ("invalid", "settings.health_path", create(settings={"health_path": "/a b"})),
                ("invalid", "settings.cpu", create(settings={"cpu": "1Gi"})),
                ("invalid", "settings.cpu", create(settings={"cpu": "0"})),
                ("invalid", "settings.memory", create(settings={"memory": "256"})),
                ("invalid", "settings.command", create(settings={"command": "run"})),
                ("invalid", "settings.autoscale", create(settings={"autoscale": {"min": 5, "max": 4}})),
                ("invalid", "settings.run_as_user", create(settings={"run_as_user": 0})),
                ("invalid", "settings.deadline_s", create(settings={"deadline_s": 1})),
                ("invalid", "app: `Api`", create(app="Api")),
                ("invalid", "app: `2048`", create(app="2048")),
                ("invalid", "app: `x", create(app="x" * 51)),
                ("not_found", "environment `nowhere`", create("nowhere")),
                ("not_found", "app `web`", create(app="web")),
                ("denied", "`reports` may not deploy to `closed`", create("closed")),
                ("conflict", "being deleted", create("old")),
                ("invalid", "replicas is missing", lambda: deploy.scale("dev", "api", None)),
                ("invalid", "0 to 1000", lambda: deploy.scale("dev", "api", "2")),
                ("not_found", "api", lambda: deploy.scale("dev", "api", 2)),
                ("denied", "closed", lambda: deploy.delete("closed", "api")),
                ("invalid", "not both", lambda: deploy.rollback("dev", "api", version="v1", revision=1)),
                ("invalid", "version is missing", lambda: deploy.rollback("dev", "api", version="")),
                ("invalid", "from 1", lambda: deploy.rollback("dev", "api", revision=0)),
                ("not_found", "api in dev", lambda: deploy.status("dev", "api")),
                ("not_found", "nowhere", lambda: deploy.list_deployments("nowhere")),
                ("invalid", "1 to 100", lambda: deploy.history("dev", "api", limit=101)),
            ]:
                with self.subTest(message):
                    self.refused(code, message, call)
            for image in [
                "a:", "A/b", "a b", "/a", "a//b", "a..b", "http://a/b", "a@sha256:0", "a:v1:v2", "a\n", "ä",
                f"a:{'x' * 129}", "a" * 513,
            ]:
                with self.subTest(image):
                    self.refused("invalid", "^image", create(image=image))
            for image in [
                "api", "a-b:v1", "r.example.com:5000/acme/api", "localhost/x:1", "host:80/a", f"a@{DIGEST}",
                f"a/b:v1@{DIGEST}",
            ]:
                create(image=image)()
            for settings in [
                {"port": 1, "health_path": "/healthz?x=1", "cpu": "0.5", "memory": "1.5Gi", "added_later": []},
                {"cpu": "250m", "command": ["/app"], "autoscale": {"min": 1, "max": 100}, "deadline_s": 5},
            ]:
                create(settings=settings)()

        host = Host(
            environments=["dev", Environment("closed", allowed=False), Environment("old", "deleting")],
            apps=["api"], worker_type="reports",
        )
        self.assertEqual(len(self.inside(host, act).deployed), 9)

    def test_a_run_asks_for_a_hundred_changes_and_no_more(self):
        def act():
            for replicas in range(100):
                deploy.scale("prod", "api", replicas)
            self.refused("limit", "100", lambda: deploy.delete("prod", "api"))
            self.assertEqual(deploy.status("prod", "api").replicas.desired, 99)

        self.inside(Host(deployments=[Deployed("prod", "api", "a:1")]), act)

    def test_of_what_was_refused_after_all_nothing_stays(self):
        def look():
            one = deploy.status("prod", "api")
            ready = (one.replicas.desired, one.replicas.ready)
            return (one.state, one.version, one.revision, ready, len(deploy.history("prod", "api")))

        def asking(*changes):
            def act():
                for change in changes:
                    change()
                return waiting()

            return act

        def standing(*expected, then=lambda: None):
            def act():
                self.assertEqual(look(), expected)
                return then()

            return act

        host = Host(
            environments=[Environment("prod", approval=True)], apps=["web"],
            deployments=[Deployed("prod", "api", "a:1", 2)],
        )
        before = ("running", "1", 1, (2, 2), 1)
        first, second = self.inside(
            host,
            asking(
                lambda: deploy.create("prod", "api", image="a:2", replicas=5),
                lambda: deploy.create("prod", "web", image="web:1"),
            ),
        ).deployed
        host.settle(first.id, "failed", "rejected", "rejected by ada").settle(second.id, "failed", "not_approved")
        self.inside(host, standing(*before, then=asking(lambda: deploy.delete("prod", "api"))))
        host.settle(first.id, "failed", "forbidden")

        def again():
            self.refused("not_found", "web", lambda: deploy.status("prod", "web"))
            deploy.scale("prod", "api", 3)
            return waiting()

        self.inside(host, standing(*before, then=again))
        # Another change while one is under way: that one is still waited for.
        given = Deployed("prod", "api", "a:2", before=["a:1"], state="deploying", asked_for=True, id="d")
        other = Host(deployments=[given])
        self.inside(other, asking(lambda: deploy.scale("prod", "api", 9)))
        other.settle("d", "failed", "conflict")
        self.inside(other, standing("deploying", "2", 2, (1, 0), 2, then=waiting))
        other.settle("d", "failed", "invalid")
        self.inside(other, standing("running", "1", 1, (1, 1), 1))

    def test_what_somebody_else_has_asked_for_takes_the_place_of_what_the_run_did(self):
        def deploying():
            deploy.create("prod", "api", image="a:2")
            return waiting()

        def deleting():
            one = deploy.status("prod", "api")
            self.assertEqual((one.state, one.revision), ("deploying", 3))
            outcomes = [past.outcome for past in deploy.history("prod", "api")]
            self.assertEqual(outcomes, [None, "superseded", "running"])
            deploy.delete("prod", "api")
            return waiting()

        host = Host(deployments=[Deployed("prod", "api", "a:1", id="d")])
        self.inside(host, deploying)
        self.inside(host.settle("d", "failed", "superseded", "revision 3"), deleting)
        host.settle("d", "failed", "superseded")
        self.inside(host, lambda: self.assertEqual(deploy.status("prod", "api").state, "deploying"))

    def test_the_context_of_a_wake_up_says_more_than_its_trigger(self):
        def act():
            deploy.create("prod", "api", image="a:1")
            deploy.create("prod", "web", image="a:1")
            return waiting()

        host = Host(environments=["prod"], apps=["api", "web"], context={"n": 1})
        first, second = self.inside(host, act).deployed
        host.settle(first.id, "failed", "rejected", "rejected by ada").settle(second.id, "running")
        run = host.run(lambda request: completed("", data=[request.context, request.raw_context]))
        self.assertEqual(
            run.data,
            [
                {"n": 1},
                {
                    "trigger": "deployment_settled", "deployment_id": first.id, "status": "failed",
                    "reason": "rejected", "message": "rejected by ada", "env": "prod", "app": "api",
                    "revision": None, "parent_request_id": host.id, "parent_context": {"n": 1},
                    "additional_completions": [
                        {
                            "trigger": "deployment_settled", "deployment_id": second.id, "status": "running",
                            "reason": None, "message": None, "env": "prod", "app": "web", "revision": 1,
                        }
                    ],
                },
            ],
        )

    def test_pods_have_written_lines(self):
        def act():
            lines = [LogLine("new", "two"), LogLine("new", "three"), LogLine("old", "before")]
            self.assertEqual(deploy.logs("prod", "api", tail=2), lines)
            self.assertEqual(len(deploy.logs("prod", "api")), 4)
            # As much as fits, of characters and of lines.
            self.assertEqual(
                deploy.logs("prod", "web"), [LogLine("web-0", "first"), LogLine("web-0", "ä" * 8_192 + "…")]
            )
            self.assertEqual(deploy.logs("prod", "old"), [])
            busy = deploy.logs("prod", "busy")
            self.assertEqual((len(busy), busy[-1].pod), (20, "busy-19"))
            self.assertEqual(len(deploy.logs("prod", "loud", tail=1_000)), (1 << 20) // (2_000 + len("loud-0")))
            self.assertEqual(len(deploy.logs("prod", "loud")), 100)
            deploy.create("prod", "mine", image="a:1", register=True)
            self.refused("not_found", "mine in prod", lambda: deploy.logs("prod", "mine"))
            deploy.scale("prod", "api", 2)
            return waiting()

        lines = [
            LogLine("new", "one"), LogLine("old", "before"), LogLine("new", "two"), LogLine("new", "three"),
        ]
        host = Host(
            deployments=[
                Deployed("prod", "api", "a:1", id="d", logs=lines),
                Deployed("prod", "web", "a:1", logs=["first", "ä" * 9_000]),
                Deployed("prod", "old", "a:1", state="stopped", logs=["gone"]),
                Deployed("prod", "busy", "a:1", logs=[LogLine(f"busy-{n}", "x" * 60_000) for n in range(25)]),
                Deployed("prod", "loud", "a:1", logs=["x" * 2_000] * 1_500),
            ]
        )
        self.inside(host, act)
        # What has been written stays, until the test says otherwise.
        host.settle("d", "running").logs("d", ["anew"])
        self.inside(
            host, lambda: self.assertEqual(deploy.logs("prod", "api"), [LogLine("api-0", "anew")])
        )
        with self.assertRaisesRegex(ValueError, "no deployment x"):
            host.logs("x", [])

    def test_the_kubernetes_api_answers_what_the_test_says(self):
        pods = {"items": [{"metadata": {"name": "api-0"}}]}
        sets = "apis/apps/v1/replicasets?labelSelector=app%3Dapi"

        def reading(path, env="dev"):
            return lambda: deploy.kubernetes(env, path)

        def act():
            self.assertEqual(deploy.kubernetes("dev", "api/v1/pods"), pods)
            self.assertEqual(deploy.kubernetes("dev", sets), {"items": []})
            for path in [
                "api/v1/configmaps/a.b", "apis/apps/v1/replicasets", "api/v1/pods?watch=false", "api/v1/pods/proxy",
                "api/v1/pods?watch=0&watch=1",
            ]:
                with self.subTest(path):
                    self.refused("not_found", "the test says", reading(path))
            for path in [
                "api", "api/v1", "api/v2/pods", "/api/v1/pods", "version", "apis/apps", "apis/apps/v1",
                "apis//v1/deployments", "api/v1/", "api/v1//x", "api/v1/pods/", "api/v1/../nodes",
                "api/v1/pods/%2e%2e", "api/v1/pods#x", "api/v1/pods\n", "api/v1/pöds", "api/v1/namespaces",
                "api/v1/namespaces/other/pods", "api/v1/watch/pods", "api/v1/pods?watch", "api/v1/pods?watch=1",
                "api/v1/pods?limit=1&watch=true", "api/v1/pods/x/log?follow=true", "api/v1/pods/x/exec",
                "api/v1/pods/x/portforward",
            ]:
                with self.subTest(path):
                    self.refused("invalid", "^path: ", reading(path))
            for path in [
                "api/v1/secrets", "api/v1/secrets/x", "api/v1/services/x/proxy", "api/v1/services/x/proxy/admin",
            ]:
                with self.subTest(path):
                    self.refused("denied", "may not read", reading(path))
            for code, message, call in [
                ("invalid", "path is missing", reading("")),
                ("invalid", "path: 7 is not a str", reading(7)),
                ("invalid", "the answer has 10485.. bytes", reading("api/v1/configmaps/big")),
                ("not_found", "environment `nowhere`", reading("api/v1/pods", "nowhere")),
                ("denied", "`reports`", reading("api/v1/pods", "closed")),
                ("unavailable", "`far`", reading("api/v1/pods", "far")),
                ("unavailable", "`farther`", reading("api/v1/pods", "farther")),
                ("unavailable", "`far`", lambda: deploy.logs("far", "api")),
                ("not_found", "deployment", lambda: deploy.logs("far", "other")),
                ("not_found", "environment", lambda: deploy.logs("nowhere", "api")),
                ("denied", "`reports`", lambda: deploy.logs("closed", "api")),
                ("invalid", "app is missing", lambda: deploy.logs("dev", "")),
                ("invalid", "1 to 1000", lambda: deploy.logs("dev", "api", tail=0)),
                ("invalid", "1 to 1000", lambda: deploy.logs("dev", "api", tail=1_001)),
                ("invalid", "1 to 1000", lambda: deploy.logs("dev", "api", tail=None)),
            ]:
                with self.subTest(message):
                    self.refused(code, message, call)

        host = Host(
            environments=["dev", Environment("closed", allowed=False)],
            deployments=[Deployed("far", "api", "a:1")],
            kubernetes={("dev", "api/v1/pods"): pods, ("dev", "api/v1/configmaps/big"): {"data": "x" * (1 << 20)}},
            unreachable=["far", "farther"],
            worker_type="reports",
        )
        self.inside(host.kubernetes("dev", sets, {"items": []}), act)

    def test_a_deployment_wakes_whoever_asked_for_it(self):
        host = Host(deployments=[Deployed("prod", "api", "a:1", state="deploying", id="d")])
        self.assertEqual(host.run(lambda _: waiting()).code, "nothing_to_wait_for")
        self.assertEqual(host.settle("d", "failed", "quota").state_of("d"), "failed")
        with self.assertRaisesRegex(ValueError, "no deployment x"):
            host.settle("x", "running")

        mine = Host(deployments=[Deployed("prod", "api", "a:1", state="deploying", asked_for=True, id="d")])
        self.assertTrue(mine.run(lambda _: waiting()).is_waiting)
        woken = mine.settle("d", "running").run(lambda request: completed(request.trigger.deployment_id))
        self.assertEqual(woken.summary, "d")


if __name__ == "__main__":
    unittest.main()
