//! Why a run takes place, as its guest is told: its triggers, and the context of a wake-up.

use serde_json::{Value, json};

use crate::delivery::claim::{Claimed, WakeEvent};
use crate::ids::RequestId;
use crate::requests::Status;
use crate::requests::orchestration::EventKind;
use crate::runtime::Trigger;

/// Why a run takes place.
pub(crate) struct Why {
    /// What it is, or what came first.
    pub trigger: Trigger,
    /// What else came in meanwhile, oldest first.
    pub additional: Vec<Trigger>,
    /// The request's own context, or a wake-up's: what has happened, and the former within.
    pub context: String,
}

impl Why {
    pub(super) fn of(run: &Claimed) -> Why {
        match (&run.wake, &run.schedule) {
            (Some(wake), _) => Why::woken(wake.orchestration, &run.context, &wake.events),
            (None, Some(name)) => Why::scheduled(name.clone(), run.context.clone()),
            (None, None) => Why::initial(run.context.clone()),
        }
    }

    /// A request's first run.
    pub(crate) fn initial(context: String) -> Why {
        Why { trigger: Trigger::Initial, additional: Vec::new(), context }
    }

    /// The first run of a request that a schedule has created.
    pub(crate) fn scheduled(name: String, context: String) -> Why {
        Why { trigger: Trigger::Cron { name }, additional: Vec::new(), context }
    }

    /// A run of an orchestration whose own context is `own`, because of what has happened to it.
    pub(crate) fn woken(orchestration: RequestId, own: &str, events: &[WakeEvent]) -> Why {
        let mut triggers = events.iter().map(trigger);
        let first = triggers.next().unwrap_or(Trigger::Other { kind: "nothing".into() });
        Why {
            trigger: first,
            additional: triggers.collect(),
            context: envelope(orchestration, own, events),
        }
    }
}

/// The context of a wake-up: `{trigger, completed_request_id, completed_result_id, parent_request_id,
/// parent_context, additional_completions}`. A result has its request's id.
fn envelope(orchestration: RequestId, own: &str, events: &[WakeEvent]) -> String {
    let mut described = events.iter().map(described);
    let mut envelope = match described.next() {
        Some(Value::Object(first)) => first,
        _ => serde_json::Map::new(),
    };
    envelope.insert("parent_request_id".into(), json!(orchestration));
    // It was stored as JSON.
    envelope.insert("parent_context".into(), serde_json::from_str(own).unwrap_or(Value::Null));
    envelope.insert("additional_completions".into(), Value::Array(described.collect()));
    Value::Object(envelope).to_string()
}

fn described(event: &WakeEvent) -> Value {
    let source = event.source.to_string();
    match event.kind {
        EventKind::Child => json!({
            "trigger": "child_complete",
            "completed_request_id": source,
            "completed_result_id": source,
            "status": event.payload["status"],
        }),
        EventKind::Answer => json!({
            "trigger": "hitl_response",
            "question_id": source,
            "response": event.payload["response"],
            "expired": event.payload.get("response").is_none(),
        }),
        EventKind::Deployment => {
            let mut described = event.payload.clone();
            described["trigger"] = json!("deployment_settled");
            described["deployment_id"] = json!(source);
            described
        }
        EventKind::Timer => json!({ "trigger": "timer", "name": event.payload["name"] }),
        EventKind::Cron => json!({ "trigger": "cron", "name": event.payload["name"] }),
    }
}

fn trigger(event: &WakeEvent) -> Trigger {
    let text = |name: &str| event.payload[name].as_str().unwrap_or_default().to_owned();
    let given = |name: &str| event.payload.get(name).and_then(Value::as_str).map(str::to_owned);
    match event.kind {
        EventKind::Child => Trigger::ChildComplete {
            request_id: RequestId(event.source),
            status: text("status").parse().unwrap_or(Status::Completed),
        },
        EventKind::Answer => Trigger::HitlResponse {
            question_id: event.source.to_string(),
            response: event.payload.get("response").map(Value::to_string),
            answered_by: given("answered_by"),
        },
        EventKind::Deployment => Trigger::DeploymentSettled {
            deployment_id: event.source.to_string(),
            status: text("status"),
            reason: given("reason"),
        },
        EventKind::Timer => Trigger::Timer { name: text("name") },
        EventKind::Cron => Trigger::Cron { name: text("name") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_told_the_first_event_and_what_else_has_come_in() {
        let id = |n| uuid::Uuid::from_u128(n);
        let events = [
            WakeEvent {
                kind: EventKind::Child,
                source: id(1),
                payload: json!({"status": "failed"}),
            },
            WakeEvent { kind: EventKind::Timer, source: id(2), payload: json!({"name": "late"}) },
            WakeEvent { kind: EventKind::Answer, source: id(3), payload: json!({}) },
        ];
        let text = envelope(RequestId(id(9)), r#"{"text": "x"}"#, &events);
        let envelope: Value = serde_json::from_str(&text).expect("JSON");
        insta::assert_json_snapshot!(envelope, @r#"
        {
          "additional_completions": [
            {
              "name": "late",
              "trigger": "timer"
            },
            {
              "expired": true,
              "question_id": "00000000-0000-0000-0000-000000000003",
              "response": null,
              "trigger": "hitl_response"
            }
          ],
          "completed_request_id": "00000000-0000-0000-0000-000000000001",
          "completed_result_id": "00000000-0000-0000-0000-000000000001",
          "parent_context": {
            "text": "x"
          },
          "parent_request_id": "00000000-0000-0000-0000-000000000009",
          "status": "failed",
          "trigger": "child_complete"
        }
        "#);
        assert_eq!(
            trigger(&events[0]),
            Trigger::ChildComplete { request_id: RequestId(id(1)), status: Status::Failed }
        );
        assert_eq!(trigger(&events[1]), Trigger::Timer { name: "late".into() });
        let expired = trigger(&events[2]);
        assert!(matches!(expired, Trigger::HitlResponse { response: None, .. }), "{expired:?}");
    }
}
