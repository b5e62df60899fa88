//! What guests pass to the host: runs of calls, as they arrive in `runtime/capabilities`.

use std::collections::HashSet;
use std::sync::Arc;

use arbitrary::{Error, Result, Unstructured};
use bytes::BytesMut;
use serde_json::{Value as Json, json};
use tokio::runtime::Handle;
use tokio_postgres::types::{IsNull, Kind, ToSql as _};

use super::{Seen, is_presentable};
use crate::ids::RequestId;
use crate::requests::{BlockerRef, LogLine, NewRequest};
use crate::runtime::bindings::eve::skill::db::{self, Host as _};
use crate::runtime::bindings::eve::skill::log::{Host as _, Level};
use crate::runtime::bindings::eve::skill::queue::{self, Host as _};
use crate::runtime::bindings::eve::skill::types;
use crate::runtime::capabilities::db::{Answer, Database, DbHost};
use crate::runtime::capabilities::deploy::Deploys;
use crate::runtime::capabilities::log::{SharedLog, Stream};
use crate::runtime::capabilities::memory_queue::MemoryQueue;
use crate::runtime::capabilities::queue::Queue;
use crate::runtime::context::Context;
use crate::runtime::limits::{self, MemoryAccount, MemoryBudget, StoreLimiter};
use crate::runtime::{Effects, Job};
use crate::schemas::{Column, Migration, Rows, Statement, Value};

/// The request that runs, and one that is there besides.
const RUN: &str = "019b7654-0000-7000-8000-f0000000000a";
const OTHER: &str = "019b7654-0000-7000-8000-f0000000000b";
/// What an error says is for a person: a few lines.
const ERROR: usize = 4 << 10;

/// Bytes that decide which calls a guest makes, and with what.
pub fn boundary(data: &[u8]) -> Seen {
    let io = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
    io.block_on(async {
        let mut guest = Guest::begin(data);
        // Until the bytes are used up.
        while guest.call().await.is_ok() {}
        guest.end()
    })
}

/// A guest in the middle of its run.
struct Guest<'a> {
    whim: Whim<'a>,
    host: Context,
    /// Calls that were answered with something else than an error.
    served: usize,
    /// Lines that were logged, as long as nothing was printed.
    logged: Option<usize>,
}

impl<'a> Guest<'a> {
    fn begin(data: &'a [u8]) -> Guest<'a> {
        let memory = Arc::new(MemoryQueue::default());
        let request: NewRequest =
            serde_json::from_value(json!({ "worker_type": "general" })).expect("a request");
        let creates = [RUN, OTHER].map(|text| (id(text), request.clone())).to_vec();
        memory.commit(RequestId::generate(), &Effects { creates, ..Effects::default() });
        let queue = Queue::new(memory.clone(), Handle::current());
        let job = Job::bare(id(RUN), memory);
        let db = Database::new(Arc::new(Echo), Handle::current());
        let deploys = Deploys::new(job.deployments.clone(), Handle::current());
        let account = Arc::new(MemoryAccount::open(&MemoryBudget::new(0, 1), 0));
        let limiter = StoreLimiter::new(account);
        Guest {
            whim: Whim { bytes: Unstructured::new(data), ids: vec![RUN.into(), OTHER.into()] },
            host: Context::new(Box::new(job), SharedLog::default(), queue, db, deploys, limiter),
            served: 0,
            logged: Some(0),
        }
    }

    /// Makes one call and looks at the answer.
    async fn call(&mut self) -> Result<()> {
        if self.whim.bytes.is_empty() {
            return Err(Error::NotEnoughData);
        }
        match self.whim.bytes.int_in_range(0..=12)? {
            0 | 1 => {
                let request = self.whim.request()?;
                let answer = self.host.create(request.clone()).await;
                if let Some(id) = self.answered(answer) {
                    self.is_seen(&id, &request).await;
                    self.whim.ids.push(id);
                }
            }
            2 => {
                let requests = self.whim.batch()?;
                let answer = self.host.create_many(requests.clone()).await;
                if let Some(ids) = self.answered(answer) {
                    assert_eq!(ids.len(), requests.len());
                    if let (Some(id), Some(request)) = (ids.last(), requests.last()) {
                        self.is_seen(id, request).await;
                        self.whim.ids.push(id.clone());
                    }
                }
            }
            3 => {
                let id = self.whim.id()?;
                let info = self.host.get(id.clone()).await;
                let result = self.host.result(id.clone()).await;
                let blockers = self.host.blockers(id).await;
                let known = [
                    self.answered(info).is_some(),
                    self.answered(result).is_some(),
                    self.answered(blockers).is_some(),
                ];
                assert!(known == [true; 3] || known == [false; 3], "{known:?}");
            }
            4 => {
                let filter = self.whim.filter()?;
                let limit = filter.limit.unwrap_or(20) as usize;
                let answer = self.host.list(filter).await;
                if let Some(list) = self.answered(answer) {
                    assert!(list.len() <= limit.min(limits::LIST));
                    assert!(list.is_sorted_by(|one, next| one.id > next.id), "newest first, once");
                }
            }
            5 => {
                let of = self.whim.id()?;
                let answer = self.host.children(of).await;
                let _ = self.answered(answer);
            }
            6 => {
                let (id, reason) = (self.whim.id()?, self.whim.perhaps(Whim::text)?);
                let answer = self.host.cancel(id.clone(), reason).await;
                if self.answered(answer).is_some() {
                    let again = self.host.cancel(id, None).await.expect("no fault of the host");
                    assert!(again.is_err(), "it was cancelled twice");
                }
            }
            7 => {
                let question = self.whim.question()?;
                let answer = self.host.ask(question);
                let _ = self.answered(answer);
            }
            8 => {
                let answer = self.host.wake_after(self.whim.milliseconds()?, self.whim.text()?);
                let _ = self.answered(answer);
            }
            9 => self.log()?,
            10 => {
                let stream = *self.whim.bytes.choose(&[Stream::Output, Stream::Error])?;
                let text = self.whim.text()?;
                self.host.log.lock().write(stream, text.as_bytes());
                self.logged = None;
            }
            _ => self.statement().await?,
        }
        Ok(())
    }

    /// What is said is an answer or an error that can be shown, never a fault of the host.
    fn answered<T>(
        &mut self,
        answer: wasmtime::Result<std::result::Result<T, types::Error>>,
    ) -> Option<T> {
        use types::Error as E;
        match answer.expect("no fault of the host") {
            Ok(answer) => {
                self.served += 1;
                Some(answer)
            }
            Err(
                E::Invalid(text)
                | E::NotFound(text)
                | E::Conflict(text)
                | E::Limit(text)
                | E::Denied(text)
                | E::Unavailable(text)
                | E::Other(text),
            ) => {
                is_presentable(&text, ERROR);
                None
            }
        }
    }

    /// A run sees at once what it has asked for.
    async fn is_seen(&mut self, id: &str, asked: &queue::NewRequest) {
        let info = self.host.get(id.to_owned()).await.expect("no fault of the host");
        let info = info.expect("what was created is there");
        assert_eq!(info.id, id);
        assert_eq!((&info.worker_type, &info.skill), (&asked.worker_type, &asked.skill));
        assert_eq!(info.prompt, asked.prompt);
        for (seen, given) in [(&info.context, &asked.context), (&info.metadata, &asked.metadata)] {
            let given: Json = serde_json::from_str(given.as_deref().unwrap_or("{}")).expect("JSON");
            assert_eq!(*seen, given.to_string());
        }
    }

    fn log(&mut self) -> Result<()> {
        let levels = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
        let level = *self.whim.bytes.choose(&levels)?;
        let message = self.whim.text()?;
        let field = (self.whim.text()?, self.whim.text()?);
        let bytes = field.0.len() + field.1.len() + 1;
        let fields = self.whim.count(&[0, 1, limits::LOG_FIELDS + 1])?;
        let fields = vec![field; fields.min(limits::HOSTCALL_FUEL / bytes)];
        let bytes = bytes * fields.len() + message.len() + 1;
        // The log is full long before that.
        let times = self.whim.count(&[1, 2, limits::LOG_LINES + 1])?;
        let times = times.min(2 + 4 * limits::LOG_BYTES / bytes);
        for _ in 0..times {
            self.host.log(level, message.clone(), fields.clone()).expect("it never fails");
        }
        self.logged = self.logged.map(|logged| logged + times);
        Ok(())
    }

    /// A statement whose answer is its parameters: they come back as they were.
    async fn statement(&mut self) -> Result<()> {
        let values = self.whim.values()?;
        let statement =
            db::Statement { sql: String::new(), parameters: values.clone(), expected_rows: None };
        let answer = self.host.query("schema".into(), statement).await;
        match answer.expect("no fault of the host") {
            Ok(rows) => {
                self.served += 1;
                // The contract's types cannot be compared, and NaN is equal to nothing.
                assert_eq!(format!("{:?}", rows.rows), format!("{:?}", [values]));
            }
            Err(db::Error::Invalid(text)) => is_presentable(&text, ERROR),
            Err(other) => panic!("{other:?}"),
        }
        Ok(())
    }

    fn end(mut self) -> Seen {
        can_be_committed(&self.host.queue.take_effects());
        let (lines, dropped) = self.host.log.lock().take();
        is_kept_within_limits(&lines);
        if let Some(logged) = self.logged {
            assert_eq!(lines.len() as u64 + dropped, logged as u64, "lines are kept or counted");
        }
        if self.served > 0 { Seen::Accepted } else { Seen::Refused }
    }
}

fn id(text: &str) -> RequestId {
    text.parse().expect("an id")
}

/// What a run has asked for shares a commit with its neighbours': it must not be what fails it.
fn can_be_committed(effects: &Effects) {
    let Effects { creates, cancels, questions, timers, orders } = effects;
    assert!(orders.len() <= limits::DEPLOYS);
    for order in orders {
        assert!(!order.env.contains('\0') && !order.app.contains('\0'));
        assert!(!has_nul(&serde_json::to_value(&order.change).expect("JSON")));
    }
    assert!(creates.len() <= limits::CREATES);
    let mut known: HashSet<RequestId> = [id(RUN), id(OTHER)].into();
    let mut bytes = 0;
    for (id, request) in creates {
        assert_eq!(request.validate(0), Ok(()));
        for blocker in &request.blocked_by {
            let BlockerRef::Id(on) = blocker.on else { panic!("{blocker:?} is no id") };
            assert!(known.contains(&on), "{on} is not there yet");
        }
        assert!(known.insert(*id), "{id} is created twice");
        let written = serde_json::to_value(request).expect("JSON");
        assert!(!has_nul(&written));
        bytes += written.to_string().len();
        assert!(serde_json::from_value::<NewRequest>(written).is_ok());
    }
    // JSON may take six bytes for one, and names the fields.
    assert!(bytes <= 6 * limits::EFFECTS + 1_000 * creates.len(), "{bytes} bytes");

    let cancelled: HashSet<_> = cancels.iter().map(|(id, _)| id).collect();
    assert_eq!(cancelled.len(), cancels.len(), "each once");
    for reason in cancels.iter().filter_map(|(_, reason)| reason.as_ref()) {
        assert!(reason.len() <= limits::MESSAGE && !reason.contains('\0'));
    }
    assert!(questions.len() <= limits::QUESTIONS);
    assert!(questions.iter().all(|(_, question)| question.validate().is_ok()));
    let names: HashSet<_> = timers.iter().map(|(name, _)| name).collect();
    assert!(names.len() == timers.len() && timers.len() <= limits::TIMERS, "each once");
    for (name, delay) in timers {
        assert!(limits::TIMER.contains(delay) && !name.is_empty() && !name.contains('\0'));
    }
}

pub(super) fn has_nul(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains('\0'),
        Json::Array(items) => items.iter().any(has_nul),
        Json::Object(members) => {
            members.iter().any(|(key, value)| key.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}

fn is_kept_within_limits(lines: &[LogLine]) {
    assert!(lines.len() <= limits::LOG_LINES);
    let mut bytes = 0;
    for line in lines {
        assert!(line.message.len() <= limits::LOG_LINE && !line.message.contains('\0'));
        assert!(line.fields.len() <= limits::LOG_FIELDS);
        bytes += line.message.len();
        for (name, value) in &line.fields {
            assert!(!name.contains('\0') && !value.contains('\0'));
            bytes += name.len() + value.len();
        }
    }
    assert!(bytes <= limits::LOG_BYTES, "{bytes} bytes of log");
}

/// A database that answers with the parameters, after it has looked at how they are sent.
struct Echo;

impl DbHost for Echo {
    fn call<'a>(&'a self, _: &'a str, calls: Vec<Statement>) -> Answer<'a, Vec<Rows>> {
        let echo = |call: Statement| {
            call.parameters.iter().for_each(is_sent_whole);
            let column = |_| Column { name: String::new(), type_name: String::new() };
            let columns = call.parameters.iter().map(column).collect();
            Rows { columns, rows: vec![call.parameters], affected: 1 }
        };
        Box::pin(async move { Ok(calls.into_iter().map(echo).collect()) })
    }

    fn migrate<'a>(&'a self, _: &'a str, _: Vec<Migration>) -> Answer<'a, Vec<u32>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

/// As text, which Postgres can hold; an array as its elements, none of which ends it early.
fn is_sent_whole(value: &Value) {
    let sent = sent(value);
    let is_array = matches!(value.parameter_type().kind(), Kind::Array(_));
    let Value::Array(_, elements) = value else {
        assert!(!is_array);
        assert!(sent.is_none_or(|sent| sent.is_some() != (*value == Value::Null)));
        return;
    };
    assert!(is_array);
    let expected: Option<Vec<_>> = elements.iter().map(self::sent).collect();
    assert_eq!(sent.map(|text| elements_of(&text.expect("an array"))), expected);
}

/// How a value is sent, NULL being none; nothing if it cannot be.
fn sent(value: &Value) -> Option<Option<String>> {
    let mut out = BytesMut::new();
    let text = match value.to_sql_checked(&value.parameter_type(), &mut out).ok()? {
        IsNull::Yes => return Some(None),
        IsNull::No => String::from_utf8(out.to_vec()).expect("text"),
    };
    assert!(!text.contains('\0'));
    Some(Some(text))
}

/// Reads an array as Postgres does: <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>
fn elements_of(text: &str) -> Vec<Option<String>> {
    let inside = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).expect("braces");
    let (mut elements, mut element) = (Vec::new(), None);
    let (mut quoted, mut bare) = (false, String::new());
    let mut characters = inside.chars();
    let mut end = |element: Option<String>, bare: &mut String| match element {
        Some(text) if bare.is_empty() => elements.push(Some(text)),
        None if bare == "NULL" => elements.push(None),
        element => panic!("{element:?} and {bare} in {text}"),
    };
    while let Some(c) = characters.next() {
        match (c, quoted) {
            ('"', _) => {
                quoted = !quoted;
                element.get_or_insert_with(String::new);
            }
            ('\\', true) => element.as_mut().expect("quoted").extend(characters.next()),
            (c, true) => element.as_mut().expect("quoted").push(c),
            (',', false) => {
                end(element.take(), &mut bare);
                bare.clear();
            }
            (c, false) => bare.push(c),
        }
    }
    if !inside.is_empty() {
        end(element, &mut bare);
    }
    elements
}

/// What a guest has in mind: bytes, as arguments. Short ones, words that mean something, and what is just
/// within and just beyond a limit.
struct Whim<'a> {
    bytes: Unstructured<'a>,
    /// Requests that it knows of.
    ids: Vec<String>,
}

impl Whim<'_> {
    fn perhaps<T>(&mut self, one: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.bytes.ratio(1, 3)? {
            true => one(self).map(Some),
            false => Ok(None),
        }
    }

    fn count(&mut self, of: &[usize]) -> Result<usize> {
        // The last is the expensive one.
        match self.bytes.ratio(1, 64)? {
            true => Ok(of[of.len() - 1]),
            false => Ok(*self.bytes.choose(&of[..of.len() - 1])?),
        }
    }

    fn text(&mut self) -> Result<String> {
        const WORDS: [&str; 8] = ["", "a", "general", "\0", "a\0b", "\u{1b}[2J", "{}", "né\"\\,{}"];
        const UNITS: [&str; 6] = ["x", "é", "\0", "\"", "\\", "\u{1}"];
        const SIZES: [usize; 8] =
            [63, 255, 1_020, 8 << 10, 16 << 10, 64 << 10, 256 << 10, limits::STRING];
        Ok(match self.bytes.int_in_range(0..=15)? {
            0..=7 => self.bytes.arbitrary::<&str>()?.to_owned(),
            8..=14 => (*self.bytes.choose(&WORDS)?).to_owned(),
            _ => {
                let unit = self.bytes.choose(&UNITS)?;
                let bytes = self.bytes.choose(&SIZES)? + self.bytes.int_in_range(0..=2)?;
                unit.repeat(bytes / unit.len())
            }
        })
    }

    fn name(&mut self) -> Result<String> {
        match self.bytes.ratio(1, 4)? {
            true => self.text(),
            false => Ok((*self.bytes.choose(&["general", "a", "0-9"])?).to_owned()),
        }
    }

    fn json(&mut self) -> Result<String> {
        const WORDS: [&str; 8] = [
            "{}",
            "[]",
            "null",
            "",
            "{\"a\":",
            "{\"\\u0000\":1}",
            "{\"a\":[\"\\u0000\"]}",
            "{\"a\":1e-20000,\"b\":[1,2.5,{}]}",
        ];
        Ok(match self.bytes.int_in_range(0..=5)? {
            0..=2 => (*self.bytes.choose(&WORDS)?).to_owned(),
            3 => {
                let deep = *self.bytes.choose(&[62, 63, 64, 65, 127, 5_000])?;
                format!("{{\"a\":{}{}}}", "[".repeat(deep), "]".repeat(deep))
            }
            4 => json!({ "a": self.text()? }).to_string(),
            _ => self.text()?,
        })
    }

    fn id(&mut self) -> Result<String> {
        const WORDS: [&str; 8] = [
            "#0",
            "#1",
            "#18446744073709551616",
            "",
            "\u{1b}",
            "019B7654-0000-7000-8000-F0000000000B",
            "{019b7654-0000-7000-8000-f0000000000b}",
            "019b7654-0000-7000-8000-f0000000000d",
        ];
        Ok(match self.bytes.int_in_range(0..=7)? {
            0..=4 => self.bytes.choose(&self.ids)?.clone(),
            5 | 6 => (*self.bytes.choose(&WORDS)?).to_owned(),
            _ => self.text()?,
        })
    }

    fn milliseconds(&mut self) -> Result<u64> {
        const EDGES: [u64; 8] = [
            0,
            99,
            1_000,
            86_400_000,
            2_592_000_000,
            31_536_000_000,
            i64::MAX as u64,
            u64::MAX - 2,
        ];
        Ok(self.bytes.choose(&EDGES)? + self.bytes.int_in_range(0..=2)?)
    }

    fn request(&mut self) -> Result<queue::NewRequest> {
        let on_failure = [types::OnFailure::Cancel, types::OnFailure::Run, types::OnFailure::Hold];
        let mut blocked_by = Vec::new();
        for _ in 0..self.count(&[0, 0, 1, 2, 3])? {
            let on_failure = *self.bytes.choose(&on_failure)?;
            blocked_by.push(queue::Blocker { id: self.id()?, on_failure });
        }
        Ok(queue::NewRequest {
            worker_type: self.name()?,
            skill: self.perhaps(Whim::name)?,
            prompt: self.text()?,
            context: self.perhaps(Whim::json)?,
            repo_url: self.perhaps(Whim::text)?,
            branch: self.perhaps(Whim::text)?,
            config: self.perhaps(Whim::json)?,
            metadata: self.perhaps(Whim::json)?,
            blocked_by,
            reply_to_me: self.bytes.arbitrary()?,
            detached: self.bytes.arbitrary()?,
            delay: self.perhaps(Whim::milliseconds)?,
            priority: self.perhaps(|whim| whim.bytes.int_in_range(-101..=101))?,
            max_attempts: self.perhaps(|whim| whim.bytes.int_in_range(0..=26))?,
            timeout: self.perhaps(Whim::milliseconds)?,
            idempotency_key: self.perhaps(Whim::text)?,
        })
    }

    fn batch(&mut self) -> Result<Vec<queue::NewRequest>> {
        let mut batch = Vec::new();
        for _ in 0..self.bytes.int_in_range(0..=3)? {
            batch.push(self.request()?);
        }
        if let Some(last) = batch.last().cloned() {
            let more = self.count(&[0, 0, 1, limits::CREATES])?;
            // No guest can pass more at once.
            let most = limits::HOSTCALL_FUEL / format!("{last:?}").len();
            batch.extend(std::iter::repeat_n(last, more.min(most)));
        }
        Ok(batch)
    }

    fn question(&mut self) -> Result<queue::Question> {
        let mut options = Vec::new();
        for _ in 0..self.count(&[0, 1, 2, 101])? {
            options.push(self.text()?);
        }
        Ok(queue::Question {
            text: self.text()?,
            options,
            details: self.perhaps(Whim::json)?,
            expires_in: self.perhaps(Whim::milliseconds)?,
        })
    }

    fn filter(&mut self) -> Result<queue::Filter> {
        let status = [types::Status::Pending, types::Status::Cancelled, types::Status::Blocked];
        let mut statuses = Vec::new();
        for _ in 0..self.bytes.int_in_range(0..=3)? {
            statuses.push(*self.bytes.choose(&status)?);
        }
        Ok(queue::Filter {
            context: self.perhaps(Whim::json)?,
            statuses,
            worker_type: self.perhaps(Whim::name)?,
            limit: self.perhaps(|whim| whim.bytes.int_in_range(0..=101))?,
            before: self.perhaps(Whim::id)?,
        })
    }

    fn values(&mut self) -> Result<Vec<db::Value>> {
        let mut values = Vec::new();
        for _ in 0..self.bytes.int_in_range(0..=4)? {
            values.push(self.value()?);
        }
        Ok(values)
    }

    fn value(&mut self) -> Result<db::Value> {
        Ok(match self.bytes.int_in_range(0..=12)? {
            0 => db::Value::Null,
            1 => db::Value::Boolean(self.bytes.arbitrary()?),
            2 => db::Value::Integer(self.bytes.arbitrary()?),
            3 => db::Value::Float(self.bytes.arbitrary()?),
            4 => db::Value::Numeric(self.text()?),
            5 => db::Value::Text(self.text()?),
            6 => db::Value::Bytes(self.bytes.arbitrary()?),
            7 => db::Value::Json(self.json()?),
            8 => db::Value::Uuid(self.text()?),
            9 => db::Value::Timestamp(self.text()?),
            10 => db::Value::Date(self.text()?),
            11 => {
                let type_name = (*self.bytes.choose(&["interval", "inet", "point", "\0"])?).into();
                db::Value::Other(db::OtherValue { type_name, text: self.text()? })
            }
            _ => db::Value::Array(self.array()?),
        })
    }

    fn array(&mut self) -> Result<db::Array> {
        let mut texts = Vec::new();
        for _ in 0..self.bytes.int_in_range(0..=4)? {
            texts.push(self.perhaps(Whim::text)?);
        }
        Ok(match self.bytes.int_in_range(0..=9)? {
            0 => db::Array::Booleans(self.bytes.arbitrary()?),
            1 => db::Array::Integers(self.bytes.arbitrary()?),
            2 => db::Array::Floats(self.bytes.arbitrary()?),
            3 => db::Array::Bytes(self.bytes.arbitrary()?),
            4 => db::Array::Numerics(texts),
            5 => db::Array::Jsons(texts),
            6 => db::Array::Uuids(texts),
            7 => db::Array::Timestamps(texts),
            8 => db::Array::Dates(texts),
            _ => db::Array::Texts(texts),
        })
    }
}
