//! Rates: how often a caller may call, and how often an address may try credentials that do not hold.
//!
//! Flow: `extract::identify` has a credential [`hesitate`](Rates::hesitate) before it is looked up, and
//! then either [`admit`](Rates::admit)s whom it stands for or has the address
//! [`turned away`](Rates::turn_away). Each takes from a bucket that fills steadily; who finds theirs empty
//! gets 429 and hears when to come back.
//!
//! Invariants:
//! - A caller is who they are - an API token by its id, a person by theirs -, so nobody uses up what
//!   another has, and a new sign-in is no new bucket. What they do for one organisation has a rate of its
//!   own beside theirs ([`admit_for`](Rates::admit_for)): nobody gets more by making tokens.
//! - What strangers do costs good credentials nothing but time: one that held lately goes straight
//!   through, and any other of an address that has tried too much waits before it is looked at.
//! - Nothing grows with what clients make up: buckets live in caches of a fixed size. One that is pushed
//!   out is full again when it comes back.
//! - Each process counts for itself: behind two replicas a caller may call twice as often.
//!
//! The buckets are those of the generic cell rate algorithm (ITU-T I.371): one number each, the instant
//! at which it is full. The crate `governor` has the same algorithm; its maps grow until somebody sweeps
//! them, which is the very thing that a million made-up addresses are after.

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::problem::{Kind, Problem};
use crate::ids::{OrgId, TokenId, UserId};
use crate::tenancy::{Actor, Tenant};

/// What one caller may do. A loop in a shell makes 20 calls a second, a fan-out of such loops a few
/// hundred for a moment, a page of a console ten; a control plane on two cores serves some 2,000, so no
/// caller alone keeps the others out.
pub const CALLER: Rate = Rate::Limited { calls: 200, per: Per::Second };
/// All callers of one organisation together may do what so many may alone: a token costs nothing to
/// make, and an organisation may have a thousand of them.
const CALLERS_OF_ONE: u32 = 5;
/// What one address may try. Nobody guesses a token of 256 bits: this is for the database, which is asked
/// for each. A proxy that is not declared makes all its users one address, so it is not much less.
pub const STRANGER: Rate = Rate::Limited { calls: 20, per: Per::Second };
/// What may be saved up: ten seconds' worth, for scripts that work in bursts.
const BURST: Duration = Duration::from_secs(10);
/// The most that can be asked for; beyond that there is `off`.
const MOST_CALLS: u32 = 1_000_000;
/// How long a credential that is not known to be good waits when its address has tried too much: long
/// against a guesser, short for a person.
const HESITATION: Duration = Duration::from_secs(1);
/// Most that wait so at one time: each is an open connection. Whoever comes beyond is not looked at.
const MOST_WAITING: usize = 256;
/// Buckets of each kind, and credentials known to be good: under 10 MB each.
const MOST_REMEMBERED: usize = 50_000;

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// As often as they like.
    Off,
    /// So many calls in a while, and [`BURST`] of it at once.
    Limited {
        /// At least one.
        calls: u32,
        /// The while.
        per: Per,
    },
}

/// What calls are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// `s`
    Second,
    /// `m`
    Minute,
}

impl Rate {
    /// So many times as often.
    fn times(self, factor: u32) -> Self {
        match self {
            Rate::Off => Rate::Off,
            Rate::Limited { calls, per } => {
                Rate::Limited { calls: calls.saturating_mul(factor), per }
            }
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Rate::Off);
        }
        let shape = || "must be such as 200/s or 600/m, or off".to_owned();
        let (calls, per) = text.split_once('/').ok_or_else(shape)?;
        let per = match per {
            "s" => Per::Second,
            "m" => Per::Minute,
            _ => return Err(shape()),
        };
        let calls = calls.parse().map_err(|_| shape())?;
        if !(1..=MOST_CALLS).contains(&calls) {
            return Err(format!("must be between 1 and {MOST_CALLS} calls, or off"));
        }
        Ok(Rate::Limited { calls, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::Off => f.write_str("off"),
            Rate::Limited { calls, per: Per::Second } => write!(f, "{calls}/s"),
            Rate::Limited { calls, per: Per::Minute } => write!(f, "{calls}/m"),
        }
    }
}

/// What is limited, and how the client's address is known.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// Of a caller.
    pub caller: Rate,
    /// Of an address, with credentials that do not hold.
    pub stranger: Rate,
    /// How many proxies of the operator's own append to `X-Forwarded-For`. With none the address is the
    /// socket's: anybody can send the header.
    pub proxies: usize,
}

impl RateLimits {
    /// None at all: for `eve dev`, whose only user is at the same machine.
    pub fn off() -> Self {
        Self { caller: Rate::Off, stranger: Rate::Off, proxies: 0 }
    }
}

/// The time, from any instant on.
type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Counts. Cheap to clone.
#[derive(Clone)]
pub struct Rates {
    inner: Arc<Inner>,
}

struct Inner {
    callers: Option<Buckets<Who>>,
    organisations: Option<Buckets<OrgId>>,
    strangers: Option<Buckets<Origin>>,
    /// By their hash: those that have held lately.
    good: Cache<[u8; 32], ()>,
    waiting: Semaphore,
    hesitation: Duration,
    proxies: usize,
    clock: Clock,
}

/// Whom a credential stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Token(TokenId),
    Person(UserId),
}

/// Where somebody calls from, as far as counting goes: an IPv4 address, or the first 64 bits of an IPv6
/// one, because whoever has one has as many as they like of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Origin(match address.to_canonical() {
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
            }
            address => address,
        })
    }
}

impl Rates {
    /// Full buckets for everybody.
    pub fn new(limits: RateLimits) -> Self {
        let start = Instant::now();
        Self::with_clock(limits, HESITATION, Arc::new(move || start.elapsed()))
    }

    /// The same with a time of the caller's own.
    pub(super) fn with_clock(limits: RateLimits, hesitation: Duration, clock: Clock) -> Self {
        Self {
            inner: Arc::new(Inner {
                callers: Buckets::new(limits.caller, MOST_REMEMBERED),
                organisations: Buckets::new(limits.caller.times(CALLERS_OF_ONE), MOST_REMEMBERED),
                strangers: Buckets::new(limits.stranger, MOST_REMEMBERED),
                good: Cache::new(MOST_REMEMBERED),
                waiting: Semaphore::new(MOST_WAITING),
                hesitation,
                proxies: limits.proxies,
                clock,
            }),
        }
    }

    /// Where a request comes from.
    pub fn origin(&self, parts: &Parts) -> Origin {
        let forwarded = forwarded(self.inner.proxies, &parts.headers);
        let peer = || parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        // Every connection has an address; a router that is called without one is a test's.
        forwarded.or_else(peer).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).into()
    }

    /// Lets a credential wait that is not known to be good, if its address has tried too much.
    pub async fn hesitate(&self, origin: Origin, credential: &str) -> Result<(), Problem> {
        let Some(strangers) = &self.inner.strangers else { return Ok(()) };
        let Some(wait) = strangers.wait(&origin, self.now()) else { return Ok(()) };
        if self.inner.good.get(&fingerprint(credential)).is_some() {
            return Ok(());
        }
        let Ok(_place) = self.inner.waiting.try_acquire() else { return Err(stranger(wait)) };
        tokio::time::sleep(self.inner.hesitation).await;
        Ok(())
    }

    /// Counts a call of somebody whose credential holds.
    pub fn admit(
        &self,
        actor: &Actor,
        credential: &str,
        told: Option<&Told>,
    ) -> Result<(), Problem> {
        if self.inner.strangers.is_some() {
            let credential = fingerprint(credential);
            if !self.inner.good.contains_key(&credential) {
                self.inner.good.insert(credential, ());
            }
        }
        let Some(callers) = &self.inner.callers else { return Ok(()) };
        let who = match *actor {
            Actor::Token { token, .. } => Who::Token(token),
            Actor::User { user } => Who::Person(user),
            // They do not come by HTTP.
            Actor::Run { .. } | Actor::Schedule { .. } | Actor::Platform => return Ok(()),
        };
        let taken = callers.take(&who, self.now());
        if let Some(told) = told {
            let (left, full_in) = match taken {
                Ok(standing) => (standing.left, standing.full_in),
                Err(wait) => (0, wait + callers.depth()),
            };
            let quota = callers.quota();
            let _ = told.0.set(Standing { quota, window: callers.depth(), left, full_in });
        }
        taken.map(drop).map_err(|wait| {
            Problem::too_many("this credential has been used too often in too short a time", wait)
        })
    }

    /// Counts a call that somebody makes for an organisation.
    pub fn admit_for(&self, tenant: Tenant) -> Result<(), Problem> {
        let Some(organisations) = &self.inner.organisations else { return Ok(()) };
        organisations.take(&tenant.org(), self.now()).map(drop).map_err(|wait| {
            let detail = "all callers of this organisation together have called too often";
            Problem::too_many(detail, wait)
        })
    }

    /// Counts a call with a credential that does not hold, or with none: what the client is to hear.
    pub fn turn_away(&self, origin: Origin, credential: Option<&str>, problem: Problem) -> Problem {
        // Nobody is to blame for an outage.
        if problem.kind() != Kind::Unauthenticated {
            return problem;
        }
        let Some(strangers) = &self.inner.strangers else { return problem };
        if let Some(credential) = credential {
            self.inner.good.remove(&fingerprint(credential));
        }
        match strangers.take(&origin, self.now()) {
            Ok(_) => problem,
            Err(wait) => stranger(wait),
        }
    }

    fn now(&self) -> u64 {
        nanoseconds((self.inner.clock)())
    }
}

fn stranger(wait: Duration) -> Problem {
    let detail = "too many calls from this address came without a credential that holds";
    Problem::too_many(detail, wait)
}

fn fingerprint(credential: &str) -> [u8; 32] {
    Sha256::digest(credential).into()
}

/// Whom the outermost of the operator's proxies has seen. Each appends the address that called it, so
/// that is the n-th from the right; what stands further left the client may have made up.
fn forwarded(proxies: usize, headers: &HeaderMap) -> Option<IpAddr> {
    let place = proxies.checked_sub(1)?;
    let lines = headers.get_all("x-forwarded-for");
    let entry = lines
        .iter()
        .rev()
        .flat_map(|line| line.to_str().unwrap_or_default().rsplit(','))
        .nth(place)?
        .trim();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    entry.parse().ok().or_else(with_port)
}

/// What a caller has left.
#[derive(Clone, Copy, Debug)]
struct Standing {
    quota: u64,
    window: Duration,
    left: u64,
    full_in: Duration,
}

/// Carries what a caller has left from where it is counted to the response's headers.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<OnceLock<Standing>>);

impl Told {
    /// Writes the fields of draft-ietf-httpapi-ratelimit-headers-10, if there is anything to tell.
    pub fn write(&self, headers: &mut HeaderMap) {
        const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
        const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
        let Some(Standing { quota, window, left, full_in }) = self.0.get() else { return };
        let policy = format!("\"caller\";q={quota};w={}", seconds(*window));
        let limit = format!("\"caller\";r={left};t={}", seconds(*full_in));
        for (name, value) in [(POLICY, policy), (LIMIT, limit)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

/// Whole seconds, never too few.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A bucket for each key, all of one rate.
struct Buckets<K> {
    /// Nanoseconds in which one call's worth flows in.
    interval: u64,
    /// Nanoseconds in which an empty one is full.
    depth: u64,
    /// When each is full.
    full_at: Cache<K, Arc<AtomicU64>>,
}

/// What is left after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Left {
    left: u64,
    full_in: Duration,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// At most `most` of them; none if there is no limit.
    fn new(rate: Rate, most: usize) -> Option<Self> {
        let Rate::Limited { calls, per } = rate else { return None };
        let period = match per {
            Per::Second => Duration::from_secs(1),
            Per::Minute => Duration::from_secs(60),
        };
        let interval = nanoseconds(period) / u64::from(calls.max(1));
        // One call is always in it, however slowly it fills.
        let depth = nanoseconds(BURST).max(interval);
        Some(Self { interval, depth, full_at: Cache::new(most) })
    }

    /// Calls that fit in a full one.
    fn quota(&self) -> u64 {
        self.depth / self.interval
    }

    fn depth(&self) -> Duration {
        Duration::from_nanos(self.depth)
    }

    /// Takes one call's worth; how long to wait if there is too little.
    fn take(&self, key: &K, now: u64) -> Result<Left, Duration> {
        let made = self
            .full_at
            .get_or_insert_with(key, || Ok::<_, std::convert::Infallible>(Arc::default()));
        let Ok(full_at) = made;
        let mut seen = full_at.load(Ordering::Relaxed);
        loop {
            let next = seen.max(now).saturating_add(self.interval);
            let missing = next - now;
            if missing > self.depth {
                return Err(Duration::from_nanos(missing - self.depth));
            }
            let swapped =
                full_at.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => {
                    let left = (self.depth - missing) / self.interval;
                    return Ok(Left { left, full_in: Duration::from_nanos(missing) });
                }
                Err(other) => seen = other,
            }
        }
    }

    /// How long to wait for a call's worth; none if there is one. Takes nothing.
    fn wait(&self, key: &K, now: u64) -> Option<Duration> {
        let full_at = self.full_at.get(key)?.load(Ordering::Relaxed);
        let missing = full_at.max(now).saturating_add(self.interval) - now;
        missing.checked_sub(self.depth).filter(|wait| *wait > 0).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn rates_are_read_as_they_are_written() {
        for text in ["off", "1/s", "200/s", "600/m", "1000000/s"] {
            assert_eq!(rate(text).to_string(), text);
        }
        for text in ["", "0/s", "-1/s", "1000001/s", "1/h", "1", "/s", "1/", "1 /s", "on"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bucket_holds_ten_seconds_worth_and_fills_steadily() {
        let buckets = Buckets::new(rate("2/s"), 10).unwrap();
        for left in (0..20).rev() {
            assert_eq!(buckets.take(&"a", SECOND).unwrap().left, left);
        }
        let wait = buckets.take(&"a", SECOND).unwrap_err();
        assert_eq!(wait, Duration::from_millis(500));
        assert_eq!(buckets.wait(&"a", SECOND), Some(wait));
        // What was refused costs nothing, so whoever comes back when they are told to is served.
        let later = SECOND + nanoseconds(wait);
        assert_eq!(buckets.wait(&"a", later), None);
        assert_eq!(buckets.take(&"a", later).unwrap().left, 0);
        assert!(buckets.take(&"a", later).is_err());
        // Others are not concerned.
        assert_eq!(buckets.take(&"b", later).unwrap().left, 19);
        // After a long time it is full, and no fuller.
        assert_eq!(buckets.take(&"a", 3_600 * SECOND).unwrap().left, 19);
    }

    #[test]
    fn however_slow_a_rate_one_call_is_served() {
        let buckets = Buckets::new(rate("1/m"), 10).unwrap();
        assert_eq!(
            buckets.take(&"a", 0).unwrap(),
            Left { left: 0, full_in: Duration::from_secs(60) }
        );
        assert_eq!(buckets.take(&"a", 0).unwrap_err(), Duration::from_secs(60));
        assert!(buckets.take(&"a", 60 * SECOND).is_ok());
    }

    #[test]
    fn many_at_once_take_no_more_than_there_is() {
        let buckets = Buckets::new(rate("100/s"), 10).unwrap();
        let served: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..500).filter(|_| buckets.take(&0, SECOND).is_ok()).count())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(served, 1_000);
    }

    #[test]
    fn a_million_made_up_keys_take_no_more_room_than_the_first() {
        let buckets = Buckets::new(rate("1/s"), 1_000).unwrap();
        for key in 0..1_000_000_u32 {
            let _ = buckets.take(&key, SECOND);
            if key % 1_000 == 0 {
                assert!(buckets.full_at.len() as u64 <= buckets.full_at.capacity(), "{key}");
            }
        }
        // All of the cache is counted, what it remembers of those that it has dropped too.
        let used = buckets.full_at.memory_used().total();
        assert!(used < 1 << 20, "{used} bytes");
    }

    #[test]
    fn one_customers_addresses_are_one_origin() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("2001:db8:1:2:3::4"), origin("2001:db8:1:2:ffff::"));
        assert_ne!(origin("2001:db8:1:2::"), origin("2001:db8:1:3::"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }

    #[test]
    fn only_what_the_operators_proxies_have_seen_is_believed() {
        let seen = |proxies, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            forwarded(proxies, &headers).map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(seen(0, &["198.51.100.9"]), None);
        assert_eq!(seen(1, &["198.51.100.9"]), some("198.51.100.9"));
        assert_eq!(seen(1, &["10.0.0.1, 198.51.100.9"]), some("198.51.100.9"));
        assert_eq!(seen(2, &["10.0.0.1, 198.51.100.9 , 192.0.2.7"]), some("198.51.100.9"));
        assert_eq!(seen(2, &["10.0.0.1", "198.51.100.9", "192.0.2.7"]), some("198.51.100.9"));
        assert_eq!(seen(1, &["198.51.100.9:4711"]), some("198.51.100.9"));
        assert_eq!(seen(1, &["[2001:db8::1]:4711"]), some("2001:db8::1"));
        // Whoever went round a proxy, or sends nonsense, is whom the socket says.
        assert_eq!(seen(2, &["198.51.100.9"]), None);
        for nonsense in ["", "unknown", "1.2.3", "198.51.100.9,", "😀"] {
            let mut headers = HeaderMap::new();
            headers
                .append("x-forwarded-for", HeaderValue::from_bytes(nonsense.as_bytes()).unwrap());
            assert_eq!(forwarded(1, &headers), None, "{nonsense}");
        }
    }
}
