//! What a run asks of the queue, against a queue in memory.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::memory_queue::MemoryQueue;
use super::queue::{CallError, Effects, Queue, QueueError, QueueFilter};
use crate::hitl::NewQuestion;
use crate::ids::RequestId;
use crate::requests::{BlockerRef, NewRequest, RequestResult, Status};
use crate::runtime::bindings::eve::skill::types;
use crate::runtime::limits;

fn queue(host: &Arc<MemoryQueue>) -> Queue {
    Queue::new(host.clone(), tokio::runtime::Handle::current())
}

fn request(body: Value) -> NewRequest {
    let mut request = json!({"worker_type": "general"});
    if let (Value::Object(request), Value::Object(body)) = (&mut request, body) {
        request.extend(body);
    }
    serde_json::from_value(request).unwrap()
}

async fn one(queue: &mut Queue, body: Value) -> Result<RequestId, CallError> {
    one_of(queue, body, RequestId::generate()).await
}

/// One that `run` creates.
async fn one_of(queue: &mut Queue, body: Value, run: RequestId) -> Result<RequestId, CallError> {
    Ok(queue.create(vec![request(body)], run).await?[0])
}

fn question(body: Value) -> NewQuestion {
    let mut question = json!({"question": "Go on?"});
    if let (Value::Object(question), Value::Object(body)) = (&mut question, body) {
        question.extend(body);
    }
    serde_json::from_value(question).unwrap()
}

fn problem<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> QueueError {
    match outcome.unwrap_err() {
        CallError::Guest(error) => error,
        CallError::Ours(failure) => panic!("{failure}"),
    }
}

/// A request that exists before the run begins.
async fn existing(host: &Arc<MemoryQueue>) -> RequestId {
    let mut before = queue(host);
    let id = one(&mut before, json!({})).await.unwrap();
    host.commit(RequestId::generate(), &before.take_effects());
    id
}

fn all() -> QueueFilter {
    QueueFilter { limit: 100, ..QueueFilter::default() }
}

#[tokio::test]
async fn a_run_sees_what_it_asked_for() {
    let host = Arc::new(MemoryQueue::default());
    let run = RequestId::generate();
    let mut queue = queue(&host);
    let first = one(&mut queue, json!({"context": {"part": 1}})).await.unwrap();
    let second = one(&mut queue, json!({"blocked_by": [first]})).await.unwrap();
    let third = one(&mut queue, json!({"delay_ms": 5})).await.unwrap();

    assert_eq!(queue.get(first).await.unwrap().status, types::Status::Pending);
    assert_eq!(queue.get(second).await.unwrap().status, types::Status::Blocked);
    assert_eq!(queue.get(third).await.unwrap().status, types::Status::Scheduled);
    assert!(queue.result(first).await.unwrap().is_none());
    let blockers = queue.blockers(second).await.unwrap();
    assert_eq!((blockers[0].id.clone(), blockers[0].open), (first.to_string(), true));
    let children = queue.children(run, run).await.unwrap();
    let ids: Vec<_> = children.iter().map(|child| child.request.id.clone()).collect();
    assert_eq!(ids, [first, second, third].map(|id| id.to_string()));
    let listed = queue.list(QueueFilter { limit: 2, ..all() }).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|info| info.id.clone()).collect();
    assert_eq!(ids, [third, second].map(|id| id.to_string()));
    let matching = QueueFilter { context: Some(json!({"part": 1.0})), ..all() };
    assert_eq!(queue.list(matching).await.unwrap().len(), 1);

    // Nobody else sees any of it.
    assert!(matches!(problem(self::queue(&host).get(first).await), QueueError::NotFound(_)));
    let effects = queue.take_effects();
    assert_eq!(effects.creates.len(), 3);
    assert!(effects.cancels.is_empty());
}

#[tokio::test]
async fn a_batch_refers_to_its_own_entries() {
    let host = Arc::new(MemoryQueue::default());
    let mut queue = queue(&host);
    let batch = vec![
        request(json!({})),
        request(json!({"blocked_by": ["#0"]})),
        request(json!({"blocked_by": ["#0", {"id": "#1", "on_failure": "run"}]})),
    ];
    let ids = queue.create(batch, RequestId::generate()).await.unwrap();
    let Effects { creates, .. } = queue.take_effects();
    let last: Vec<_> = creates[2].1.blocked_by.iter().map(|blocker| blocker.on).collect();
    assert_eq!(last, [BlockerRef::Id(ids[0]), BlockerRef::Id(ids[1])]);

    let forward = vec![request(json!({"blocked_by": ["#1"]})), request(json!({}))];
    let error = problem(queue.create(forward, RequestId::generate()).await).to_string();
    assert!(error.starts_with("requests[0].blocked_by"), "{error}");
    assert!(queue.take_effects().is_empty());
}

#[tokio::test]
async fn what_is_named_must_exist() {
    let host = Arc::new(MemoryQueue::new(["general".to_owned()]));
    let mut queue = queue(&host);
    let missing = RequestId::generate();
    for body in [json!({"worker_type": "nowhere"}), json!({"blocked_by": [missing]})] {
        assert!(matches!(problem(one(&mut queue, body).await), QueueError::NotFound(_)));
    }
    assert!(matches!(
        problem(queue.cancel(missing, None, RequestId::generate()).await),
        QueueError::NotFound(_)
    ));
    assert!(queue.take_effects().is_empty());
}

#[tokio::test]
async fn cancelling_shows_and_goes_down_the_edges() {
    let host = Arc::new(MemoryQueue::default());
    let outside = existing(&host).await;
    let run = RequestId::generate();
    let mut queue = queue(&host);
    let dependent = one(&mut queue, json!({"blocked_by": [outside]})).await.unwrap();
    let stubborn = one(&mut queue, json!({"blocked_by": [{"id": dependent, "on_failure": "run"}]}))
        .await
        .unwrap();

    queue.cancel(outside, Some("enough".into()), run).await.unwrap();
    assert_eq!(queue.get(outside).await.unwrap().status, types::Status::Cancelled);
    assert!(queue.result(outside).await.unwrap().is_some());
    assert_eq!(queue.get(dependent).await.unwrap().status, types::Status::Cancelled);
    assert_eq!(queue.get(stubborn).await.unwrap().status, types::Status::Pending);
    for again in [outside, dependent] {
        assert!(matches!(problem(queue.cancel(again, None, run).await), QueueError::Conflict(_)));
    }
    assert!(matches!(problem(queue.cancel(run, None, run).await), QueueError::Invalid(_)));
    let open = QueueFilter { statuses: vec![Status::Pending], ..all() };
    assert_eq!(queue.list(open).await.unwrap().len(), 1);

    let effects = queue.take_effects();
    assert_eq!(effects.cancels, [(outside, Some("enough".into()))]);
    host.commit(run, &effects);
    let after = self::queue(&host).get(outside).await.unwrap();
    assert_eq!(after.status, types::Status::Cancelled);
}

#[tokio::test]
async fn a_key_makes_one_request_over_attempts_and_runs() {
    let host = Arc::new(MemoryQueue::default());
    let keyed = |text: &str| json!({"idempotency_key": "k", "prompt": text});

    // An attempt that fails: its key is reserved, its request is not made.
    let mut lost = queue(&host);
    let other = one(&mut lost, json!({})).await.unwrap();
    let mut body = keyed("a");
    body["blocked_by"] = json!([other]);
    let first = one(&mut lost, body.clone()).await.unwrap();

    // The next one finds the id, although its other request has another id.
    let mut next = queue(&host);
    let other = one(&mut next, json!({})).await.unwrap();
    body["blocked_by"] = json!([other]);
    assert_eq!(one(&mut next, body.clone()).await.unwrap(), first);
    assert_eq!(one(&mut next, body).await.unwrap(), first);
    assert!(matches!(problem(one(&mut next, keyed("b")).await), QueueError::Conflict(_)));
    let effects = next.take_effects();
    assert_eq!(effects.creates.len(), 2);
    host.commit(RequestId::generate(), &effects);

    // Once it exists it is not made again, and another body is refused.
    let mut later = queue(&host);
    assert!(matches!(problem(one(&mut later, keyed("b")).await), QueueError::Conflict(_)));
    assert!(later.take_effects().is_empty());
}

#[tokio::test]
async fn a_run_asks_for_only_so_much() {
    let host = Arc::new(MemoryQueue::default());
    let mut queue = queue(&host);
    for _ in 0..limits::CREATES / 1_000 {
        queue.create(vec![request(json!({})); 1_000], RequestId::generate()).await.unwrap();
    }
    assert!(matches!(problem(one(&mut queue, json!({})).await), QueueError::Limit(_)));
    assert_eq!(queue.take_effects().creates.len(), limits::CREATES);

    let mut queue = self::queue(&host);
    let large = json!({"context": {"x": "y".repeat(1_000_000)}});
    for _ in 0..8 {
        one(&mut queue, large.clone()).await.unwrap();
    }
    assert!(matches!(problem(one(&mut queue, large).await), QueueError::Limit(_)));
}

#[tokio::test]
async fn comparing_contexts_has_an_end() {
    let host = Arc::new(MemoryQueue::default());
    let mut queue = queue(&host);
    let numbers: Vec<u32> = (0..1_000).collect();
    one(&mut queue, json!({"context": {"n": numbers}})).await.unwrap();
    let wanted: Vec<u32> = (0..1_000).rev().collect();
    let filter = QueueFilter { context: Some(json!({"n": wanted})), ..all() };
    assert!(matches!(problem(queue.list(filter).await), QueueError::Limit(_)));
}

#[tokio::test]
async fn an_answer_counts_what_children_ended_with() {
    let host = Arc::new(MemoryQueue::default());
    let run = RequestId::generate();
    let mut first = queue(&host);
    let ids = first.create(vec![request(json!({})); 8], run).await.unwrap();
    host.commit(run, &first.take_effects());
    for (nth, id) in ids.into_iter().enumerate() {
        assert!(queue(&host).children(run, run).await.is_ok(), "{nth}");
        host.finish(completed(id, json!("x".repeat(limits::OUTPUT_DATA - 2))));
    }
    assert!(matches!(problem(queue(&host).children(run, run).await), QueueError::Limit(_)));
}

fn completed(id: RequestId, data: Value) -> RequestResult {
    RequestResult {
        request_id: id,
        status: Status::Completed,
        generation: 1,
        summary: None,
        data: Some(data),
        error: None,
        tokens_used: None,
        cost: None,
        attempt: 1,
        started_at: None,
        finished_at: chrono::Utc::now(),
        duration_us: None,
        cpu_us: None,
        memory_peak_bytes: None,
    }
}

#[tokio::test]
async fn a_child_that_replies_cannot_wait_for_whom_it_replies_to() {
    let host = Arc::new(MemoryQueue::default());
    let run = existing(&host).await;
    let mut queue = queue(&host);
    let circle = json!({"blocked_by": [run], "reply_to": {"type": "orchestrator"}});
    let refused = problem(one_of(&mut queue, circle.clone(), run).await);
    assert!(
        matches!(&refused, QueueError::Conflict(text) if text.contains("neither")),
        "{refused}"
    );
    assert!(queue.take_effects().is_empty());

    // What replies to nobody starts when the run's request has ended; and another's end is no circle.
    one_of(&mut queue, json!({"blocked_by": [run]}), run).await.unwrap();
    one(&mut queue, circle).await.unwrap();
    assert_eq!(queue.take_effects().creates.len(), 2);
}

#[tokio::test]
async fn questions_are_kept_until_the_run_commits() {
    let host = Arc::new(MemoryQueue::default());
    let mut queue = queue(&host);
    let first = queue.ask_people(question(json!({"options": ["yes", "no"]}))).unwrap();
    let second = queue.ask_people(question(json!({}))).unwrap();
    assert!(first < second);
    let refused = problem(queue.ask_people(question(json!({"options": ["a", "a"]}))));
    assert!(matches!(&refused, QueueError::Invalid(text) if text.starts_with("options: ")));
    assert!(host.questions().is_empty());

    let effects = queue.take_effects();
    assert!(!effects.is_empty());
    host.commit(RequestId::generate(), &effects);
    let ids: Vec<_> = host.questions().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [first, second]);
}

#[tokio::test]
async fn a_timer_of_the_same_name_is_moved() {
    let host = Arc::new(MemoryQueue::default());
    let run = RequestId::generate();
    let mut queue = queue(&host);
    for (name, seconds) in [("again", 5), ("late", 60), ("again", 7)] {
        queue.wake_after(Duration::from_secs(seconds), name.into()).unwrap();
    }
    let effects = queue.take_effects();
    let seconds = Duration::from_secs;
    assert_eq!(effects.timers, [("again".into(), seconds(7)), ("late".into(), seconds(60))]);
    host.commit(run, &effects);

    queue.wake_after(seconds(90), "late".into()).unwrap();
    host.commit(run, &queue.take_effects());
    assert_eq!(host.timers(run), [("again".into(), seconds(7)), ("late".into(), seconds(90))]);
    assert!(host.timers(RequestId::generate()).is_empty());
}

#[tokio::test]
async fn a_timer_has_a_name_and_a_time() {
    let host = Arc::new(MemoryQueue::default());
    let mut queue = queue(&host);
    let longest = "ä".repeat(limits::TIMER_NAME_CHARS);
    for (delay, name) in [(*limits::TIMER.start(), "t"), (*limits::TIMER.end(), &longest)] {
        queue.wake_after(delay, name.into()).unwrap();
    }
    queue.take_effects();
    let millisecond = Duration::from_millis(1);
    for (delay, name, said) in [
        (*limits::TIMER.start() - millisecond, "t".to_owned(), "delay: 999 ms"),
        (*limits::TIMER.end() + millisecond, "t".to_owned(), "365 days"),
        (Duration::from_millis(u64::MAX), "t".to_owned(), "365 days"),
        (Duration::from_secs(1), String::new(), "name: must not be empty"),
        (Duration::from_secs(1), longest + "x", "name: longer than 255"),
        (Duration::from_secs(1), "a\0".to_owned(), "U+0000"),
    ] {
        let refused = problem(queue.wake_after(delay, name));
        assert!(matches!(&refused, QueueError::Invalid(text) if text.contains(said)), "{refused}");
    }
    assert!(queue.take_effects().is_empty());
}

#[tokio::test]
async fn questions_and_timers_have_an_end() {
    let host = Arc::new(MemoryQueue::default());
    let mut queue = queue(&host);
    for nth in 0..limits::QUESTIONS {
        queue.ask_people(question(json!({}))).unwrap();
        queue.wake_after(Duration::from_secs(1), format!("timer {nth}")).unwrap();
    }
    assert!(matches!(problem(queue.ask_people(question(json!({})))), QueueError::Limit(_)));
    let one_more = queue.wake_after(Duration::from_secs(1), "another".into());
    assert!(matches!(problem(one_more), QueueError::Limit(_)));
    queue.wake_after(Duration::from_secs(2), "timer 0".into()).unwrap();

    // They share the budget of bytes with everything else.
    let mut queue = self::queue(&host);
    let large = json!({"context": {"x": "y".repeat(1_000_000)}});
    for _ in 0..8 {
        one(&mut queue, large.clone()).await.unwrap();
    }
    let mut asked = 0;
    let refused = loop {
        match queue.ask_people(question(json!({"question": "?".repeat(10_000)}))) {
            Ok(_) => asked += 1,
            Err(refused) => break problem(Err::<(), _>(refused)),
        }
    };
    assert!(matches!(refused, QueueError::Limit(text) if text.contains("bytes")));
    assert!(asked < limits::QUESTIONS, "{asked}");
}
