//! Values in and out: between a skill's and Postgres'.
//!
//! A parameter goes in as text, with the type that Postgres would give the same literal, so that Postgres
//! does the converting. A result comes out in binary, because that is how its driver asks for it.

use bytes::BytesMut;
use chrono::{Datelike as _, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::types as wire;
use serde_json::Value as Json;
use std::cell::Cell;
use tokio_postgres::types::{Format, FromSql, IsNull, Kind, ToSql, Type};

/// A value of a column or a parameter, as in `eve:skill/db`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// boolean.
    Bool(bool),
    /// smallint, integer, bigint.
    Int(i64),
    /// real, double precision.
    Float(f64),
    /// Decimal text.
    Numeric(String),
    /// text and its like.
    Text(String),
    /// bytea.
    Bytes(Vec<u8>),
    /// json, jsonb: as text.
    Json(String),
    /// Lower-case text.
    Uuid(String),
    /// timestamptz: RFC 3339; years that it has not, as Postgres writes them.
    Timestamp(String),
    /// date.
    Date(String),
    /// An array of one dimension, with its elements' kind; elements are of that kind or null.
    Array(Element, Vec<Value>),
    /// Another type, as Postgres writes it.
    Other {
        /// The type's name.
        type_name: String,
        /// The text.
        text: String,
    },
}

/// What the elements of an array are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Element {
    Bool,
    Int,
    Float,
    Numeric,
    Text,
    Bytes,
    Json,
    Uuid,
    Timestamp,
    Date,
}

/// A value that cannot be what it says it is, or a column that has no value of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(String);

type Failure = Box<dyn std::error::Error + Sync + Send>;

fn unfit<T>(message: String) -> Result<T, Failure> {
    Err(Box::new(Unfit(message)))
}

impl Value {
    /// The type that it has as a parameter.
    pub(crate) fn parameter_type(&self) -> Type {
        match self {
            // Left open: what it is compared with or stored in decides.
            Value::Null | Value::Text(_) => Type::UNKNOWN,
            Value::Bool(_) => Type::BOOL,
            Value::Int(value) if i32::try_from(*value).is_ok() => Type::INT4,
            Value::Int(_) => Type::INT8,
            Value::Float(_) => Type::FLOAT8,
            Value::Numeric(_) => Type::NUMERIC,
            Value::Bytes(_) => Type::BYTEA,
            Value::Json(_) => Type::JSONB,
            Value::Uuid(_) => Type::UUID,
            Value::Timestamp(_) => Type::TIMESTAMPTZ,
            Value::Date(_) => Type::DATE,
            Value::Array(element, values) => match element {
                Element::Bool => Type::BOOL_ARRAY,
                Element::Int => {
                    let small = |value: &Value| !matches!(value, Value::Int(value) if i32::try_from(*value).is_err());
                    if values.iter().all(small) { Type::INT4_ARRAY } else { Type::INT8_ARRAY }
                }
                Element::Float => Type::FLOAT8_ARRAY,
                Element::Numeric => Type::NUMERIC_ARRAY,
                Element::Text => Type::TEXT_ARRAY,
                Element::Bytes => Type::BYTEA_ARRAY,
                Element::Json => Type::JSONB_ARRAY,
                Element::Uuid => Type::UUID_ARRAY,
                Element::Timestamp => Type::TIMESTAMPTZ_ARRAY,
                Element::Date => Type::DATE_ARRAY,
            },
            Value::Other { type_name, .. } => match type_name.as_str() {
                "timestamp" => Type::TIMESTAMP,
                "time" => Type::TIME,
                "timetz" => Type::TIMETZ,
                "interval" => Type::INTERVAL,
                "inet" => Type::INET,
                "cidr" => Type::CIDR,
                "macaddr" => Type::MACADDR,
                _ => Type::UNKNOWN,
            },
        }
    }

    /// As Postgres reads it; none is NULL.
    fn text(&self) -> Result<Option<String>, Failure> {
        Ok(Some(match self {
            Value::Null => return Ok(None),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) if value.is_infinite() => {
                if *value > 0.0 {
                    "Infinity".into()
                } else {
                    "-Infinity".into()
                }
            }
            Value::Float(value) => value.to_string(),
            Value::Bytes(value) => format!("\\x{}", hex::encode(value)),
            Value::Array(_, values) => {
                let mut text = String::from("{");
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        text.push(',');
                    }
                    match value.text()? {
                        None => text.push_str("NULL"),
                        Some(element) => {
                            text.push('"');
                            for character in element.chars() {
                                if matches!(character, '"' | '\\') {
                                    text.push('\\');
                                }
                                text.push(character);
                            }
                            text.push('"');
                        }
                    }
                }
                text.push('}');
                text
            }
            Value::Numeric(text)
            | Value::Text(text)
            | Value::Json(text)
            | Value::Uuid(text)
            | Value::Timestamp(text)
            | Value::Date(text)
            | Value::Other { text, .. } => {
                if text.contains('\0') {
                    return unfit("a text may not contain the character U+0000".into());
                }
                text.clone()
            }
        }))
    }

    /// Bytes that it counts for in an answer.
    pub fn bytes(&self) -> usize {
        match self {
            Value::Null | Value::Bool(_) => 1,
            Value::Int(_) | Value::Float(_) => 8,
            Value::Bytes(bytes) => bytes.len(),
            Value::Array(_, values) => values.iter().map(|value| value.bytes() + 8).sum(),
            Value::Numeric(text)
            | Value::Text(text)
            | Value::Json(text)
            | Value::Uuid(text)
            | Value::Timestamp(text)
            | Value::Date(text) => text.len(),
            Value::Other { type_name, text } => type_name.len() + text.len(),
        }
    }

    /// As JSON shows it: what has no JSON of its own is text.
    pub fn to_json(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            // JSON has neither NaN nor infinity.
            Value::Float(value) => {
                serde_json::Number::from_f64(*value).map_or(value.to_string().into(), Json::Number)
            }
            Value::Bytes(value) => format!("\\x{}", hex::encode(value)).into(),
            Value::Json(text) => {
                serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())
            }
            Value::Array(_, values) => values.iter().map(Value::to_json).collect(),
            Value::Numeric(text)
            | Value::Text(text)
            | Value::Uuid(text)
            | Value::Timestamp(text)
            | Value::Date(text)
            | Value::Other { text, .. } => text.as_str().into(),
        }
    }

    /// The parameter that a JSON value stands for: a number as SQL has it, an object or a list as
    /// jsonb, a text as whatever it is compared with.
    pub fn from_json(json: &Json) -> Value {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Value::Int(value),
                _ => Value::Numeric(number.to_string()),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(_) | Json::Object(_) => Value::Json(json.to_string()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        Ok(match self.text()? {
            None => IsNull::Yes,
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
}

/// More memory than an answer may take.
#[derive(Debug, thiserror::Error)]
#[error("the answer takes more memory than it may; ask for fewer rows, columns or elements")]
pub(super) struct TooMuch;

thread_local! {
    /// What the row that is being decoded on this thread may still take.
    static ROOM: Cell<usize> = const { Cell::new(0) };
}

/// Decodes with so much memory, and leaves what is left of it. A few bytes of the protocol can stand for
/// very many of ours: a NULL for a whole [`Value`], a numeric for a hundred thousand digits.
pub(crate) fn within<T>(room: &mut usize, decode: impl FnOnce() -> T) -> T {
    ROOM.set(*room);
    let decoded = decode();
    *room = ROOM.take();
    decoded
}

fn charge(bytes: usize) -> Result<(), Failure> {
    match ROOM.get().checked_sub(bytes) {
        Some(left) => {
            ROOM.set(left);
            Ok(())
        }
        None => Err(Box::new(TooMuch)),
    }
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        charge(size_of::<Value>() + raw.len())?;
        if let Kind::Domain(base) = ty.kind() {
            return Value::from_sql(base, raw);
        }
        if let Kind::Array(element) = ty.kind() {
            return array(element, raw);
        }
        if let Kind::Enum(_) = ty.kind() {
            return Ok(Value::Text(wire::text_from_sql(raw)?.to_owned()));
        }
        let other = |text: String| Value::Other { type_name: ty.name().to_owned(), text };
        Ok(match *ty {
            Type::BOOL => Value::Bool(wire::bool_from_sql(raw)?),
            Type::INT2 => Value::Int(wire::int2_from_sql(raw)?.into()),
            Type::INT4 => Value::Int(wire::int4_from_sql(raw)?.into()),
            Type::INT8 => Value::Int(wire::int8_from_sql(raw)?),
            Type::OID => Value::Int(wire::oid_from_sql(raw)?.into()),
            Type::FLOAT4 => Value::Float(wire::float4_from_sql(raw)?.into()),
            Type::FLOAT8 => Value::Float(wire::float8_from_sql(raw)?),
            Type::NUMERIC => Value::Numeric(numeric(raw)?),
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::XML => {
                Value::Text(wire::text_from_sql(raw)?.to_owned())
            }
            Type::CHAR => Value::Text(char::from(wire::char_from_sql(raw)? as u8).to_string()),
            Type::BYTEA => Value::Bytes(raw.to_vec()),
            Type::JSON => Value::Json(wire::text_from_sql(raw)?.to_owned()),
            Type::JSONB => match raw {
                // The version of the format comes first.
                [1, text @ ..] => Value::Json(wire::text_from_sql(text)?.to_owned()),
                _ => return unfit("jsonb of an unknown version".into()),
            },
            Type::UUID => {
                Value::Uuid(uuid::Uuid::from_bytes(wire::uuid_from_sql(raw)?).to_string())
            }
            Type::TIMESTAMPTZ => Value::Timestamp(match wire::timestamp_from_sql(raw)? {
                i64::MAX => "infinity".into(),
                i64::MIN => "-infinity".into(),
                micros => timestamp(micros)
                    .map(|at| dated(at.date(), &at.format("T%H:%M:%S%.fZ")))
                    .ok_or_else(|| Unfit("a time beyond the year 262142".into()))?,
            }),
            Type::TIMESTAMP => other(match wire::timestamp_from_sql(raw)? {
                i64::MAX => "infinity".into(),
                i64::MIN => "-infinity".into(),
                micros => timestamp(micros)
                    .map(|at| dated(at.date(), &at.format(" %H:%M:%S%.f")))
                    .ok_or_else(|| Unfit("a time beyond the year 262142".into()))?,
            }),
            Type::DATE => Value::Date(match wire::date_from_sql(raw)? {
                i32::MAX => "infinity".into(),
                i32::MIN => "-infinity".into(),
                days => epoch()
                    .date()
                    .checked_add_signed(TimeDelta::days(days.into()))
                    .map(|date| dated(date, &""))
                    .ok_or_else(|| Unfit("a date beyond the year 262142".into()))?,
            }),
            Type::TIME => other(match wire::time_from_sql(raw)? {
                // The end of a day is another time than its beginning.
                DAY => "24:00:00".into(),
                micros @ 0..DAY => (NaiveTime::MIN + TimeDelta::microseconds(micros))
                    .format("%H:%M:%S%.f")
                    .to_string(),
                _ => return unfit("a time beyond the end of a day".into()),
            }),
            Type::INTERVAL => other(interval(raw)?),
            Type::INET | Type::CIDR => {
                let inet = wire::inet_from_sql(raw)?;
                let full = if inet.addr().is_ipv4() { 32 } else { 128 };
                other(match inet.netmask() {
                    mask if mask == full && *ty == Type::INET => inet.addr().to_string(),
                    mask => format!("{}/{mask}", inet.addr()),
                })
            }
            Type::VOID => Value::Null,
            _ => {
                return unfit(format!(
                    "a column is of type {}, which has no value here: cast it to text in the statement",
                    ty.name()
                ));
            }
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Failure> {
        charge(size_of::<Value>())?;
        Ok(Value::Null)
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn array(element: &Type, raw: &[u8]) -> Result<Value, Failure> {
    let kind = match *element {
        Type::BOOL => Element::Bool,
        Type::INT2 | Type::INT4 | Type::INT8 => Element::Int,
        Type::FLOAT4 | Type::FLOAT8 => Element::Float,
        Type::NUMERIC => Element::Numeric,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => Element::Text,
        Type::BYTEA => Element::Bytes,
        Type::JSON | Type::JSONB => Element::Json,
        Type::UUID => Element::Uuid,
        Type::TIMESTAMPTZ => Element::Timestamp,
        Type::DATE => Element::Date,
        _ if matches!(element.kind(), Kind::Enum(_)) => Element::Text,
        _ => {
            return unfit(format!(
                "a column is an array of {}, which has no value here: cast it to text in the statement",
                element.name()
            ));
        }
    };
    let array = wire::array_from_sql(raw)?;
    if array.dimensions().count()? > 1 {
        return unfit(
            "a column is an array of several dimensions: cast it to text in the statement".into(),
        );
    }
    let mut values = Vec::new();
    let mut elements = array.values();
    while let Some(value) = elements.next()? {
        values.push(match value {
            None => Value::from_sql_null(element)?,
            Some(raw) => Value::from_sql(element, raw)?,
        });
    }
    Ok(Value::Array(kind, values))
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// A date with what follows it, in a form that Postgres reads: a year has no sign, and one before our era
/// is counted from 1 and said to be so. (`+10000-01-01` and `-0043-03-15` are time zones to it.)
fn dated(date: NaiveDate, rest: &dyn std::fmt::Display) -> String {
    let (year, era) = match date.year() {
        year @ 1.. => (year, ""),
        year => (1 - year, " BC"),
    };
    format!("{year:04}-{}{rest}{era}", date.format("%m-%d"))
}

/// Where Postgres counts from.
fn epoch() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default().and_time(NaiveTime::MIN)
}

fn timestamp(micros: i64) -> Option<NaiveDateTime> {
    epoch().checked_add_signed(TimeDelta::microseconds(micros))
}

/// Groups of four decimal digits, with a weight and a scale: `numeric_send` of Postgres'
/// `utils/adt/numeric.c` describes it.
fn numeric(raw: &[u8]) -> Result<String, Failure> {
    let mut words = raw.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]]));
    let mut next = || words.next().ok_or_else(|| Unfit("a truncated numeric".into()));
    let (groups, weight, sign, scale) = (next()?, next()?, next()? as u16, next()?);
    match sign {
        0xC000 => return Ok("NaN".into()),
        0xD000 => return Ok("Infinity".into()),
        0xF000 => return Ok("-Infinity".into()),
        _ => {}
    }
    charge(4 * (usize::try_from(weight).unwrap_or(0) + usize::try_from(scale).unwrap_or(0)))?;
    let mut digits = Vec::with_capacity(groups.max(0) as usize);
    for _ in 0..groups {
        digits.push(next()?);
    }
    let group =
        |at: i32| usize::try_from(at).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let mut text = String::new();
    if sign == 0x4000 {
        text.push('-');
    }
    if weight < 0 {
        text.push('0');
    }
    for at in 0..=i32::from(weight) {
        match at {
            0 => text.push_str(&group(0).to_string()),
            at => text.push_str(&format!("{:04}", group(at))),
        }
    }
    if scale > 0 {
        text.push('.');
        let mut fraction = String::new();
        let mut at = i32::from(weight) + 1;
        // Groups between the point and the first one that was sent are zeros.
        while fraction.len() < scale as usize {
            fraction.push_str(&format!("{:04}", group(at)));
            at += 1;
        }
        fraction.truncate(scale as usize);
        text.push_str(&fraction);
    }
    Ok(text)
}

/// As ISO 8601 has it, which Postgres reads.
fn interval(raw: &[u8]) -> Result<String, Failure> {
    let [micros @ .., d0, d1, d2, d3, m0, m1, m2, m3] = raw else {
        return unfit("a truncated interval".into());
    };
    let micros = wire::time_from_sql(micros)?;
    let days = i32::from_be_bytes([*d0, *d1, *d2, *d3]);
    let months = i32::from_be_bytes([*m0, *m1, *m2, *m3]);
    // As Postgres has it since version 17.
    match (micros, days, months) {
        (i64::MAX, i32::MAX, i32::MAX) => return Ok("infinity".into()),
        (i64::MIN, i32::MIN, i32::MIN) => return Ok("-infinity".into()),
        _ => {}
    }
    let mut text = String::from("P");
    if months / 12 != 0 {
        text.push_str(&format!("{}Y", months / 12));
    }
    if months % 12 != 0 {
        text.push_str(&format!("{}M", months % 12));
    }
    if days != 0 {
        text.push_str(&format!("{days}D"));
    }
    if micros != 0 {
        let (hours, rest) = (micros / 3_600_000_000, micros % 3_600_000_000);
        let (minutes, rest) = (rest / 60_000_000, rest % 60_000_000);
        text.push('T');
        if hours != 0 {
            text.push_str(&format!("{hours}H"));
        }
        if minutes != 0 {
            text.push_str(&format!("{minutes}M"));
        }
        if rest != 0 {
            let sign = if rest < 0 { "-" } else { "" };
            let (seconds, fraction) = (rest.abs() / 1_000_000, rest.abs() % 1_000_000);
            let fraction = format!("{fraction:06}");
            match fraction.trim_end_matches('0') {
                "" => text.push_str(&format!("{sign}{seconds}S")),
                fraction => text.push_str(&format!("{sign}{seconds}.{fraction}S")),
            }
        }
    }
    if text == "P" {
        text.push_str("T0S");
    }
    Ok(text)
}
