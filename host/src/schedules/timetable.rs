//! When a schedule is due: a cron expression and a time zone.
//!
//! Where the clock on the wall jumps, `croner`'s rules hold. An expression of one time of day (`30 2 *
//! * *`) fires once on every day that it names: just after the gap if its time is left out, and the
//! first time if it comes twice. Any other (`*/15 * * * *`, `30 2,14 * * *`) follows the wall: times
//! that are left out do not fire, times that come twice fire twice, so that `0 * * * *` is every hour.

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::requests::{Invalid, validate};

/// The longest expression, in bytes: every minute of an hour, written out, fits.
const CRON_BYTES: usize = 255;
/// The longest name of a time zone that is looked for.
const ZONE_BYTES: usize = 64;
/// Names with as many letters off are suggested.
const TYPOS: usize = 3;
/// How far back the latest missed tick is looked for tick by tick: an expression that has had none for
/// so long has few of them.
const LOOK_BACK: TimeDelta = TimeDelta::days(32);

const FIELDS: &str =
    "minute, hour, day of the month, month, day of the week, such as `0 9 * * 1-5`";
const NICKNAMES: [&str; 6] = ["@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"];

/// When something is due.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
}

impl Timetable {
    /// Reads both; says what is wrong with either.
    pub fn parse(cron: &str, timezone: &str) -> Result<Timetable, Invalid> {
        Ok(Timetable { cron: parse_cron(cron)?, zone: parse_zone(timezone)? })
    }

    /// The time zone's name in the IANA database.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The first tick after a moment; none if there is no other.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = after.with_timezone(&self.zone);
        // The one error that a parsed expression can have here is that it finds none.
        let next = self.cron.find_next_occurrence(&after, false).ok()?;
        Some(next.with_timezone(&Utc)).filter(|next| *next > after)
    }

    /// The next ticks after a moment.
    pub fn upcoming(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next(after), |tick| self.next(*tick)).take(count).collect()
    }

    /// The latest of the ticks that are due: `due` is one, and not after `now`.
    pub(crate) fn latest(&self, due: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
        // Searched forwards: backwards, the jumps of the clock give other answers.
        let late = self.next(now - LOOK_BACK).filter(|tick| *tick > due && *tick <= now);
        let mut latest = late.unwrap_or(due);
        while let Some(next) = self.next(latest).filter(|next| *next <= now) {
            latest = next;
        }
        latest
    }
}

fn parse_cron(text: &str) -> Result<Cron, Invalid> {
    let invalid = |message: String| Invalid::new("cron", message);
    let text = text.trim();
    if text.is_empty() {
        return Err(invalid(format!("must not be empty: write five fields, {FIELDS}")));
    }
    if text.len() > CRON_BYTES {
        return Err(invalid(format!("{} bytes; at most {CRON_BYTES} are allowed", text.len())));
    }
    let shown = text.escape_debug();
    if text.contains('@') {
        if !NICKNAMES.iter().any(|known| known.eq_ignore_ascii_case(text)) {
            let known = NICKNAMES.join(", ");
            return Err(invalid(format!("`{shown}` is none of {known}; or write five fields")));
        }
    } else {
        match text.split_whitespace().count() {
            5 => {}
            6 => {
                return Err(invalid(format!(
                    "`{shown}` has 6 fields, and seconds are not supported: write five, {FIELDS}"
                )));
            }
            fields => {
                return Err(invalid(format!("`{shown}` has {fields} of five fields: {FIELDS}")));
            }
        }
    }
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(text)
        .map_err(|error| {
            // It repeats what it has read.
            let why = validate::shown(&error.to_string(), 2 * CRON_BYTES);
            invalid(format!("`{shown}` is no cron expression: {why}"))
        })
}

fn parse_zone(text: &str) -> Result<Tz, Invalid> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(ZONE_BYTES).collect();
        let shown = shown.escape_debug();
        let advice = match similar(text) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "write one such as Europe/Berlin, America/New_York or UTC".to_owned(),
        };
        Invalid::new(
            "timezone",
            format_args!("`{shown}` is no time zone of the IANA database: {advice}"),
        )
    })
}

/// The time zone that somebody may have meant: by its city, whatever the case, or with a typo.
fn similar(text: &str) -> Option<&'static str> {
    if text.len() > ZONE_BYTES {
        return None;
    }
    let wanted = text.trim().to_lowercase().replace([' ', '-'], "_");
    let distance = |zone: &Tz| {
        let name = zone.name().to_lowercase();
        let city = name.rsplit('/').next().unwrap_or(&name);
        strsim::osa_distance(&name, &wanted).min(strsim::osa_distance(city, &wanted))
    };
    // Of two that are as near, the shorter name: UTC rather than Etc/UTC.
    let (typos, zone) = TZ_VARIANTS
        .iter()
        .map(|zone| (distance(zone), zone))
        .min_by_key(|(typos, zone)| (*typos, zone.name().len()))?;
    // Three letters off a name of four is no typo.
    (typos <= TYPOS.min(wanted.len() / 3)).then(|| zone.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timetable(cron: &str, zone: &str) -> Timetable {
        Timetable::parse(cron, zone).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn upcoming(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let ticks = timetable(cron, zone).upcoming(at(after), count);
        ticks.iter().map(|tick| tick.format("%FT%RZ").to_string()).collect()
    }

    fn problem(cron: &str, zone: &str) -> String {
        Timetable::parse(cron, zone).unwrap_err().to_string()
    }

    #[test]
    fn five_fields_and_nicknames() {
        let noon = "2026-03-02T12:00:00Z";
        assert_eq!(
            upcoming("0 9 * * 1-5", "UTC", noon, 5),
            [
                "2026-03-03T09:00Z",
                "2026-03-04T09:00Z",
                "2026-03-05T09:00Z",
                "2026-03-06T09:00Z",
                "2026-03-09T09:00Z",
            ]
        );
        assert_eq!(upcoming("@hourly", "UTC", noon, 2), ["2026-03-02T13:00Z", "2026-03-02T14:00Z"]);
        assert_eq!(upcoming(" @Daily ", "UTC", noon, 1), ["2026-03-03T00:00Z"]);
        assert_eq!(upcoming("0 0 * * SUN", "UTC", noon, 1), ["2026-03-08T00:00Z"]);
        assert_eq!(upcoming("0 0 * * 7", "UTC", noon, 1), ["2026-03-08T00:00Z"]);
        assert_eq!(upcoming("0 0 L * *", "UTC", noon, 1), ["2026-03-31T00:00Z"]);
        // A moment in the middle of a minute, and one on a tick: never the tick itself.
        assert_eq!(
            upcoming("*/15 * * * *", "UTC", "2026-03-02T12:00:00.5Z", 1),
            ["2026-03-02T12:15Z"]
        );
        assert_eq!(upcoming("0 12 29 2 *", "UTC", noon, 1), ["2028-02-29T12:00Z"]);
    }

    #[test]
    fn what_is_no_expression_is_explained() {
        for (cron, said) in [
            ("", "must not be empty"),
            ("* * * *", "has 4 of five fields: minute, hour"),
            ("0 * * * * *", "seconds are not supported"),
            ("0 0 * * * * 2026", "has 7 of five fields"),
            ("61 * * * *", "out of bounds"),
            ("a b c d e", "illegal character"),
            ("*/0 * * * *", "no cron expression"),
            ("5-1 * * * *", "no cron expression"),
            ("@reboot", "is none of @hourly, @daily"),
            ("@daily @daily", "is none of"),
            ("0\u{1b} * * * *", "\\u{1b}"),
            ("0\u{1b} * * * *", "illegal character"),
        ] {
            let problem = problem(cron, "UTC");
            assert!(problem.starts_with("cron: ") && problem.contains(said), "{cron}: {problem}");
            assert!(!problem.contains(char::is_control), "{problem:?}");
        }
        assert!(problem(&"1,".repeat(200), "UTC").contains("at most 255"));
    }

    #[test]
    fn an_unknown_time_zone_gets_a_suggestion() {
        for (zone, meant) in [
            ("europe/berlin", "Europe/Berlin"),
            ("Berlin", "Europe/Berlin"),
            ("Europe/Berln", "Europe/Berlin"),
            ("new york", "America/New_York"),
            ("utc", "UTC"),
        ] {
            let problem = problem("@daily", zone);
            assert!(problem.contains(&format!("did you mean `{meant}`?")), "{zone}: {problem}");
        }
        for zone in ["", "UTC+2", "Atlantis/Capital_of_the_Sea", &"x".repeat(10_000)] {
            let problem = problem("@daily", zone);
            assert!(problem.contains("such as Europe/Berlin"), "{problem}");
            assert!(problem.len() < 300, "{problem}");
        }
        assert_eq!(timetable("@daily", "Europe/Berlin").zone(), "Europe/Berlin");
    }

    #[test]
    fn what_never_comes_has_no_next_tick() {
        let now = at("2026-03-02T12:00:00Z");
        for cron in ["0 0 30 2 *", "0 0 31 4,6 *", "0 0 , * *"] {
            assert_eq!(timetable(cron, "Europe/Berlin").next(now), None, "{cron}");
        }
    }

    /// 2026-03-29: 02:00 CET is 03:00 CEST, so 02:30 is left out.
    #[test]
    fn a_time_that_is_left_out_fires_after_the_gap() {
        let before = "2026-03-28T12:00:00Z";
        assert_eq!(
            upcoming("30 2 * * *", "Europe/Berlin", before, 2),
            ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]
        );
        // Half an hour, in Lord Howe: 02:00 is 02:30 on 2026-10-04.
        assert_eq!(
            upcoming("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", 2),
            ["2026-10-03T15:30Z", "2026-10-04T15:15Z"]
        );
        assert_eq!(
            upcoming("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4),
            ["2026-03-29T00:30Z", "2026-03-29T01:00Z", "2026-03-29T01:30Z", "2026-03-29T02:00Z"]
        );
        // Several times of day follow the wall: 02:30 is not there.
        assert_eq!(
            upcoming("30 2,14 * * *", "Europe/Berlin", "2026-03-28T14:00:00Z", 2),
            ["2026-03-29T12:30Z", "2026-03-30T00:30Z"]
        );
    }

    /// 2026-10-25: 03:00 CEST is 02:00 CET, so 02:30 comes twice.
    #[test]
    fn a_time_that_comes_twice_fires_once() {
        let before = "2026-10-24T12:00:00Z";
        assert_eq!(
            upcoming("30 2 * * *", "Europe/Berlin", before, 2),
            ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]
        );
        assert_eq!(
            upcoming("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2),
            ["2026-11-01T05:30Z", "2026-11-02T06:30Z"]
        );
        // Every hour is every hour.
        assert_eq!(
            upcoming("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 4),
            ["2026-10-25T00:00Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z", "2026-10-25T03:00Z"]
        );
    }

    #[test]
    fn the_latest_missed_tick_is_found() {
        let daily = timetable("0 9 * * *", "Europe/Berlin");
        let due = at("2026-03-02T08:00:00Z");
        assert_eq!(daily.latest(due, due), due);
        assert_eq!(daily.latest(due, at("2026-03-03T07:59:59Z")), due);
        assert_eq!(daily.latest(due, at("2026-03-05T10:00:00Z")), at("2026-03-05T08:00:00Z"));
        // Years of every minute, and a tick that is years away.
        let minutely = timetable("* * * * *", "UTC");
        assert_eq!(minutely.latest(due, at("2036-01-01T00:00:30Z")), at("2036-01-01T00:00:00Z"));
        let rare = timetable("0 12 29 2 *", "UTC");
        let leap = at("2028-02-29T12:00:00Z");
        assert_eq!(rare.latest(leap, at("2032-02-29T11:59:00Z")), leap);
        assert_eq!(rare.latest(leap, at("2035-01-01T00:00:00Z")), at("2032-02-29T12:00:00Z"));
        // Across both jumps of the clock.
        let half = timetable("30 2 * * *", "Europe/Berlin");
        let due = at("2026-03-28T01:30:00Z");
        assert_eq!(half.latest(due, at("2026-03-29T01:00:00Z")), at("2026-03-29T01:00:00Z"));
        assert_eq!(half.latest(due, at("2026-10-25T01:45:00Z")), at("2026-10-25T00:30:00Z"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_answer_or_an_error(cron in ".{0,40}", zone in ".{0,40}") {
            let _ = Timetable::parse(&cron, &zone);
        }

        #[test]
        fn ticks_only_go_forwards(
            minute in "(\\*|\\*/7|0|59|0,30)",
            hour in "(\\*|\\*/5|1|2|3|0-4|2,14)",
            zone in proptest::sample::select(TZ_VARIANTS.to_vec()),
            seconds in 1_700_000_000_i64..2_200_000_000,
        ) {
            let timetable = timetable(&format!("{minute} {hour} * * *"), zone.name());
            let mut last = DateTime::from_timestamp(seconds, 0).unwrap();
            for tick in timetable.upcoming(last, 5) {
                proptest::prop_assert!(tick > last);
                proptest::prop_assert!(tick - last <= TimeDelta::days(3));
                last = tick;
            }
            proptest::prop_assert!(last.timestamp() > seconds);
        }
    }
}
