//! Values of schemas, as they come from Postgres: `schemas/values.rs`.

use postgres_protocol::types::{array_from_sql, time_from_sql};
use tokio_postgres::types::{FromSql, Type};

use super::Seen;
use crate::schemas::Value;
use crate::schemas::values::within;

/// Memory that a value may take.
const ROOM: usize = 1 << 20;

/// The types that have values of ours, and one that has none.
const TYPES: [Type; 36] = [
    Type::BOOL,
    Type::INT2,
    Type::INT4,
    Type::INT8,
    Type::OID,
    Type::FLOAT4,
    Type::FLOAT8,
    Type::NUMERIC,
    Type::TEXT,
    Type::NAME,
    Type::CHAR,
    Type::BYTEA,
    Type::JSON,
    Type::JSONB,
    Type::UUID,
    Type::TIMESTAMPTZ,
    Type::TIMESTAMP,
    Type::DATE,
    Type::TIME,
    Type::INTERVAL,
    Type::INET,
    Type::CIDR,
    Type::VOID,
    Type::BOOL_ARRAY,
    Type::INT4_ARRAY,
    Type::INT8_ARRAY,
    Type::FLOAT8_ARRAY,
    Type::NUMERIC_ARRAY,
    Type::TEXT_ARRAY,
    Type::BYTEA_ARRAY,
    Type::JSONB_ARRAY,
    Type::UUID_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::DATE_ARRAY,
    Type::INET_ARRAY,
    Type::POINT,
];

/// A line with the name of a type, and what Postgres sends of a value of it.
pub fn value(data: &[u8]) -> Seen {
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return Seen::Refused };
    let (name, raw) = (&data[..end], &data[end + 1..]);
    let Some(ty) = TYPES.into_iter().find(|ty| ty.name().as_bytes() == name) else {
        return Seen::Refused;
    };
    let mut room = ROOM;
    let decoded = within(&mut room, || Value::from_sql(&ty, raw));
    let spent = ROOM - room;
    let Ok(value) = decoded else { return Seen::Refused };
    // The estimate is made before the value: it must be no less than half of what the value takes.
    assert!(memory(&value) <= 2 * spent, "{spent} bytes were thought of for {value:?}");
    is_meant(&ty, raw, &value);
    // Shown as JSON it is JSON, whatever it is.
    let shown = value.to_json().to_string();
    assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{shown}");
    Seen::Accepted
}

fn memory(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Bytes(bytes) => bytes.len(),
            Value::Array(_, values) => values.iter().map(memory).sum(),
            Value::Other { type_name, text } => type_name.len() + text.len(),
            Value::Numeric(text)
            | Value::Text(text)
            | Value::Json(text)
            | Value::Uuid(text)
            | Value::Timestamp(text)
            | Value::Date(text) => text.len(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => 0,
        }
}

/// The text says what the bytes say, to a reader that knows how Postgres reads it.
fn is_meant(ty: &Type, raw: &[u8], value: &Value) {
    match (ty, value) {
        (&Type::NUMERIC, Value::Numeric(text)) => is_decimal(text, raw),
        (&Type::TIMESTAMPTZ, Value::Timestamp(text)) => match number(raw) {
            i64::MAX => assert_eq!(text, "infinity"),
            i64::MIN => assert_eq!(text, "-infinity"),
            micros => assert_eq!(moment(text, 'T', "Z"), micros, "{text}"),
        },
        (&Type::TIMESTAMP, Value::Other { text, .. }) => match number(raw) {
            i64::MAX => assert_eq!(text, "infinity"),
            i64::MIN => assert_eq!(text, "-infinity"),
            micros => assert_eq!(moment(text, ' ', ""), micros, "{text}"),
        },
        (&Type::DATE, Value::Date(text)) if !text.ends_with("infinity") => {
            let (text, era) = era(text);
            let sent = i32::from_be_bytes(raw.try_into().expect("four bytes"));
            assert_eq!(days(text, era), i64::from(sent), "{text}");
        }
        (&Type::TIME, Value::Other { text, .. }) => {
            assert_eq!(clock(text), time_from_sql(raw).expect("eight bytes"), "{text}");
        }
        (&Type::INTERVAL, Value::Other { text, .. }) => is_length(text, raw),
        (_, Value::Array(_, values)) => {
            let sent = array_from_sql(raw).expect("an array");
            let elements = fallible_iterator::FallibleIterator::count(sent.values());
            assert_eq!(elements.expect("elements"), values.len());
        }
        _ => {}
    }
}

fn number(raw: &[u8]) -> i64 {
    i64::from_be_bytes(raw.try_into().expect("eight bytes"))
}

/// Digits, and as many after the point as were said.
fn is_decimal(text: &str, raw: &[u8]) {
    if ["NaN", "Infinity", "-Infinity"].contains(&text) {
        return;
    }
    let words: Vec<i16> =
        raw.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect();
    // Postgres never sends groups that are none; nor does it matter what becomes of them.
    if !words[4..].iter().all(|group| (0..10_000).contains(group)) {
        return;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    assert!(!whole.is_empty() && all(whole) && all(fraction), "{text}");
    assert_eq!(fraction.len(), usize::try_from(words[3]).unwrap_or(0), "{text}");
}

/// A year of our era or the one before, which Postgres writes behind.
fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days since 2000-01-01 of `YYYY-MM-DD`, by counting: <https://howardhinnant.github.io/date_algorithms.html>
fn days(text: &str, before_christ: bool) -> i64 {
    let parts: Vec<i64> = text.split('-').map(|part| part.parse().expect("a number")).collect();
    let [year, month, day] = parts[..] else { panic!("{text} is no date") };
    assert!(year >= 1 && text.split('-').next().is_some_and(|year| year.len() >= 4), "{text}");
    let year = if before_christ { 1 - year } else { year };
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 730_425
}

/// Microseconds of `HH:MM:SS.f`.
fn clock(text: &str) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let parts: Vec<i64> = whole.split(':').map(|part| part.parse().expect("a number")).collect();
    let [hours, minutes, seconds] = parts[..] else { panic!("{text} is no time") };
    assert!(fraction.len() <= 9, "{text}");
    let nanos: i64 = format!("{fraction:0<9}").parse().expect("a fraction");
    ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + nanos / 1_000
}

/// Microseconds since 2000-01-01.
fn moment(text: &str, between: char, after: &str) -> i64 {
    let (text, before_christ) = era(text);
    let text = text.strip_suffix(after).expect("its end");
    let (date, time) = text.split_once(between).expect("a date and a time");
    days(date, before_christ) * 86_400_000_000 + clock(time)
}

/// Its parts, as ISO 8601 has them, are the months, days and microseconds that were sent.
fn is_length(text: &str, raw: &[u8]) {
    let micros = number(&raw[..8]);
    let days = i64::from(i32::from_be_bytes(raw[8..12].try_into().expect("four bytes")));
    let months = i64::from(i32::from_be_bytes(raw[12..].try_into().expect("four bytes")));
    // So Postgres has it since version 17.
    let all = |part: i64, other: i64| [days, months] == [other, other] && micros == part;
    if all(i64::MAX, i32::MAX.into()) || all(i64::MIN, i32::MIN.into()) {
        assert_eq!(text, if micros > 0 { "infinity" } else { "-infinity" });
        return;
    }
    let (mut read, mut time) = ([0_i64; 3], false);
    let mut rest = text.strip_prefix('P').expect("P");
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            (time, rest) = (true, after);
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).expect("a unit");
        let (amount, unit) = (&rest[..end], &rest[end..=end]);
        rest = &rest[end + 1..];
        let whole = || amount.parse::<i64>().expect("a number");
        match (unit, time) {
            ("Y", false) => read[0] += 12 * whole(),
            ("M", false) => read[0] += whole(),
            ("D", false) => read[1] += whole(),
            ("H", true) => read[2] += 3_600_000_000 * whole(),
            ("M", true) => read[2] += 60_000_000 * whole(),
            ("S", true) => {
                let (sign, amount) = match amount.strip_prefix('-') {
                    Some(amount) => (-1, amount),
                    None => (1, amount),
                };
                read[2] += sign * clock(&format!("0:0:{amount}"));
            }
            other => panic!("{other:?} in {text}"),
        }
    }
    assert_eq!(read, [months, days, micros], "{text}");
}
