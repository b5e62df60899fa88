//! When and how long: `schedules/timetable.rs`, `cli/duration.rs`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;

use super::{Seen, is_presentable};
use crate::cli::duration as written;
use crate::schedules::Timetable;

/// Ticks that are looked at.
const TICKS: usize = 4;
/// Moments that are asked about: 1970 to 2100.
const MOMENTS: i64 = 4_102_444_800;

/// A line of cron, a line with a time zone, and a line with the second of the epoch to begin at.
pub fn cron(data: &[u8]) -> Seen {
    let Ok(text) = std::str::from_utf8(data) else { return Seen::Refused };
    let mut lines = text.splitn(3, '\n');
    let (expression, zone) = (lines.next().unwrap_or_default(), lines.next().unwrap_or("UTC"));
    let second = lines.next().and_then(|line| line.trim().parse::<i64>().ok()).unwrap_or(0);
    let from = DateTime::from_timestamp(second.rem_euclid(MOMENTS), 0).unwrap_or_default();
    let timetable = match Timetable::parse(expression, zone) {
        Ok(timetable) => timetable,
        Err(problem) => {
            is_presentable(&problem.to_string(), 4 << 10);
            return Seen::Refused;
        }
    };
    assert_eq!(timetable.zone(), zone, "a zone has one name");
    let ticks = timetable.upcoming(from, TICKS);
    let mut before = from;
    for tick in &ticks {
        is_next(&timetable, before, *tick);
        before = *tick;
    }
    if let (Some(first), Some(last)) = (ticks.first(), ticks.last()) {
        assert_eq!(timetable.latest(*first, *last), *last, "the latest of {ticks:?}");
    }
    Seen::Accepted
}

/// A tick is after the moment that was asked about, on a minute of its zone's, and the first: whoever asks
/// anywhere in between is told of the same one.
fn is_next(timetable: &Timetable, before: DateTime<Utc>, tick: DateTime<Utc>) {
    assert!(tick > before, "{tick} is not after {before}");
    let zone: Tz = timetable.zone().parse().expect("a zone that was accepted");
    let there = tick.with_timezone(&zone);
    assert_eq!((there.second(), there.nanosecond()), (0, 0), "{there} is no minute");
    let second = TimeDelta::seconds(1);
    for between in [before + second, before + (tick - before) / 2, tick - second] {
        if between >= before && between < tick {
            let next = timetable.next(between);
            assert_eq!(next, Some(tick), "asked at {before} and at {between}");
        }
    }
}

/// A length of time as the command line takes it.
pub fn duration(data: &[u8]) -> Seen {
    let Ok(text) = std::str::from_utf8(data) else { return Seen::Refused };
    match written::parse(text) {
        Ok(length) => {
            let units = |c: char| c.is_ascii_digit() || "msdh".contains(c);
            assert!(text.trim().chars().all(units), "{text:?} is {length:?}");
            let milliseconds = written::milliseconds(length);
            assert_eq!(Duration::from_millis(milliseconds), length, "{text:?} is cut");
            assert_eq!(written::parse(&format!("{milliseconds}ms")), Ok(length));
            Seen::Accepted
        }
        Err(problem) => {
            assert!(!problem.is_empty());
            Seen::Refused
        }
    }
}
