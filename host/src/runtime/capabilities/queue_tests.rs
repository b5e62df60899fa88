//! What a run asks of the queue, against a queue in memory.

use std::sync::Arc;

use serde_json::{Value, json};

use super::memory_queue::MemoryQueue;
use super::queue::{CallError, Effects, Queue, QueueError, QueueFilter};
use crate::ids::RequestId;
use crate::requests::{BlockerRef, NewRequest, Status};
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
    Ok(queue.create(vec![request(body)]).await?[0])
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
    let ids = queue.create(batch).await.unwrap();
    let Effects { creates, .. } = queue.take_effects();
    let last: Vec<_> = creates[2].1.blocked_by.iter().map(|blocker| blocker.on).collect();
    assert_eq!(last, [BlockerRef::Id(ids[0]), BlockerRef::Id(ids[1])]);

    let forward = vec![request(json!({"blocked_by": ["#1"]})), request(json!({}))];
    let error = problem(queue.create(forward).await).to_string();
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
        queue.create(vec![request(json!({})); 1_000]).await.unwrap();
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
