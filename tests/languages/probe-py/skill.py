"""Does as the context's `do` says. Keep the same as probe-js."""

import random
import sys
import time
import uuid
from collections.abc import Callable

from eve_sdk import (
    ChildComplete,
    EveError,
    HitlResponse,
    Initial,
    Outcome,
    Permanent,
    Request,
    Retryable,
    Timer,
    completed,
    db,
    deploy,
    log,
    queue,
    skill,
    waiting,
)

NAME = "probe-py"
WORDS = {Initial: "initial", ChildComplete: "child_complete", HitlResponse: "hitl_response", Timer: "timer"}


def look(request: Request) -> Outcome:
    data = {
        "trigger": WORDS[type(request.trigger)],
        "attempt": request.attempt,
        "context": request.context,
        "worker_type": request.worker_type,
        "org": request.org_slug,
        "parent": request.parent_id,
        "deadline": request.deadline.timestamp() > time.time(),
        "random": random.random(),
        "now": int(time.time() * 1000),
        "uuid": str(uuid.uuid4()),
    }
    return completed(f"{request.prompt} ✓", data=data, tokens_used=7, cost=0.25)


def write(request: Request) -> Outcome:
    log.info("plain")
    log.warn("with fields ü", words=3, list=[1, 2])
    print("to standard output")
    print("to standard error", file=sys.stderr)
    return completed("logged")


def fail(request: Request) -> Outcome:
    queue.create("nobody", prompt="never seen")
    raise Permanent("asked to fail")


def again(request: Request) -> Outcome:
    if request.attempt < 2:
        raise Retryable("not yet")
    return completed(f"attempt {request.attempt}")


def stumble(request: Request) -> Outcome:
    raise TypeError("boom")


def codes_of(calls: dict[str, Callable[[], object]]) -> dict[str, str]:
    """What each of some calls is refused with."""
    codes = {}
    for name, act in calls.items():
        try:
            act()
            codes[name] = "none"
        except EveError as error:
            codes[name] = error.code
    return codes


def errors(request: Request) -> Outcome:
    codes = codes_of({
        "not_found": lambda: queue.get("00000000-0000-7000-8000-000000000000"),
        "malformed": lambda: queue.get("x"),
        "context": lambda: queue.create("general", context=[1]),
        "ours": lambda: queue.create("general", priority=1000),
        "not_granted": lambda: db.query("notes", "SELECT 1"),
    })
    return completed("tried", data=codes)


def deploy_it(request: Request) -> Outcome:
    id = deploy.create(
        "dev", "probe", image="acme/probe:v1", replicas=2, env_vars={"GREETING": "ü"}, settings={"port": 9000},
        register=True,
    )
    one = deploy.status("dev", "probe")
    data = {
        "same": one.id == id,
        "state": one.state,
        "settled": one.is_settled,
        "version": one.version,
        "revision": one.revision,
        "desired": one.replicas.desired,
        "ready": one.replicas.ready,
        "pods": len(one.pods),
        "port": one.config["port"],
        "variables": one.config["variables"],
        "updated": one.updated_at.timestamp() > 0,
        "listed": [other.app for other in deploy.list_deployments("dev")],
    }
    return completed("deployed", data=data)


def deployed(request: Request) -> Outcome:
    def create(env="dev", app="probe", image="acme/probe:v2", **more):
        return lambda: deploy.create(env, app, image=image, **more)

    codes = codes_of({
        "environment": create(env="nowhere"),
        "app": create(app="unregistered"),
        "closed": create(env="closed"),
        "image": create(image="A/b"),
        "settings": create(settings={"privileged": True}),
        "variables": create(env_vars={"A-B": ""}),
        "ours": lambda: deploy.scale("dev", "probe", 1_001),
        "deployment": lambda: deploy.status("dev", "other"),
        "previous": lambda: deploy.rollback("dev", "probe"),
        "version": lambda: deploy.rollback("dev", "probe", version="v9"),
        "revision": lambda: deploy.rollback("dev", "probe", revision=9),
        "logs": lambda: deploy.logs("dev", "other"),
        "tail": lambda: deploy.logs("dev", "probe", tail=0),
        "path": lambda: deploy.kubernetes("dev", "version"),
        "read": lambda: deploy.kubernetes("closed", "api/v1/pods"),
    })
    one = deploy.status("dev", "probe")
    history = [
        [past.revision, past.kind, past.version, past.replicas, past.outcome, past.settled_at]
        for past in deploy.history("dev", "probe", limit=5)
    ]
    deploy.scale("dev", "probe", 3)
    data = {
        "environments": [[place.name, place.allowed, place.approval] for place in deploy.environments()],
        "codes": codes,
        "revision": one.revision,
        "state": one.state,
        "history": history,
        "scaled": deploy.status("dev", "probe").replicas.desired,
        "all": len(deploy.list_deployments()),
    }
    return completed("looked", data=data)


def wait(request: Request) -> Outcome:
    if not isinstance(request.trigger, Initial):
        raise Permanent(f"woken by {request.trigger}")
    deploy.create("dev", "probe", image="acme/probe:v2")
    # What nobody has taken by then is withdrawn.
    return waiting(deadline=10)


def undeploy(request: Request) -> Outcome:
    deploy.delete("dev", "probe")
    return completed(deploy.status("dev", "probe").state)


def late(request: Request) -> Outcome:
    time.sleep(0.02)
    return completed("late")


def orchestrate(request: Request) -> Outcome:
    log.info(f"woken by {WORDS.get(type(request.trigger))}")
    match request.trigger:
        case Initial():
            queue.create_many([
                queue.NewRequest(
                    "general", skill=NAME, prompt="a", context={"do": "look"}, metadata={"n": 1}, reply_to_me=True
                ),
                queue.NewRequest("general", skill=NAME, prompt="b", context={"do": "permanent"}, reply_to_me=True),
                queue.NewRequest(
                    "general", skill=NAME, prompt="c", context={"do": "look"}, reply_to_me=True, priority=5,
                    blocked_by=[0, queue.Blocker(1, "run")], delay=0.01, timeout=60, max_attempts=1,
                ),
            ])
            return waiting(deadline=3600)
        case ChildComplete():
            if any(child.is_open for child in queue.children()):
                return waiting()
            queue.ask("Go on?", options=["yes", "no"], details={"why": "a test"}, expires_in=3600)
            return waiting()
        case HitlResponse(response="yes"):
            queue.wake_after(1, "wait a second")
            return waiting()
        case Timer(name):
            children = queue.children()
            data = {
                "context": request.context,
                "children": [
                    {
                        "prompt": child.prompt,
                        "status": child.status,
                        "trigger": child.output and child.output["trigger"],
                        "problem": child.ended.problem and child.ended.problem.message,
                        "metadata": child.metadata,
                    }
                    for child in children
                ],
                "blockers": [
                    [one.status, one.on_failure, one.is_open] for one in queue.blockers(children[2].id)
                ],
                "listed": len(queue.list_requests(context={"do": "permanent"}, statuses=["failed"])),
                "result": queue.result(children[0].id).tokens_used,
            }
            return completed(name, data=data)
    raise Permanent(f"woken by {request.trigger}")


ORDERS = {
    "look": look, "log": write, "permanent": fail, "retryable": again, "raise": stumble, "errors": errors,
    "deploy": deploy_it, "deployed": deployed, "wait": wait, "undeploy": undeploy, "late": late,
    "orchestrate": orchestrate,
}


@skill
def run(request: Request) -> Outcome:
    return ORDERS[request.context["do"]](request)
