//! Schemas of the organisation: where a skill keeps state between its runs.
//!
//! ```
//! use eve_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Visit {
//!     who: String,
//!     times: i64,
//! }
//!
//! fn skill(request: Request) -> Result<Outcome, Failure> {
//!     let guests = db::schema("guests");
//!     guests.migrate(&[db::migration(1, "visits", "CREATE TABLE visits (who text PRIMARY KEY, times bigint)")])?;
//!     let rows = guests.query(
//!         "INSERT INTO visits VALUES ($1, 1)
//!          ON CONFLICT (who) DO UPDATE SET times = visits.times + 1 RETURNING who, times",
//!         [request.prompt()],
//!     )?;
//!     let visit: Visit = rows.one()?;
//!     Ok(Outcome::completed(format!("{} was here {} times", visit.who, visit.times)))
//! }
//!
//! // Natively a test says what the database answers.
//! use eve_sdk::testing::Host;
//! let run = Host::new()
//!     .prompt("ada")
//!     .database(|call| Ok(db::Rows::new(["who", "times"], [[call.parameters[0].clone(), 3.into()]])))
//!     .run(skill);
//! assert_eq!(run.summary(), "ada was here 3 times");
//! ```
//!
//! What is done here takes effect **at once**, whatever becomes of the run; a run that fails is tried
//! again, so its statements may run twice. Write `ON CONFLICT`, or use the request's id as a key.
//!
//! A skill reaches the schemas that `SKILL.md` names (`schema: guests`) and its organisation has
//! approved; see [`crate::skill`] for how a skill is made.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::bindings::eve::skill::db as contract;
use crate::{DataError, Failure, platform};

/// A schema of the organisation, by its logical name. Nothing is asked before a method is called.
pub fn schema(name: impl Into<String>) -> Schema {
    Schema { name: name.into() }
}

/// A migration: number, name and SQL. [`migrations!`](crate::migrations) makes them of a folder.
pub fn migration(number: u32, name: impl Into<String>, sql: impl Into<String>) -> Migration {
    Migration { number, name: name.into(), sql: sql.into() }
}

/// A schema of the organisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    name: String,
}

/// A step of a schema's history. What has been applied stays as it is; what is to change comes as a later
/// step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// 1 and above; rising.
    pub number: u32,
    /// For people: letters, digits, `_` and `-`.
    pub name: String,
    /// One or more statements, DDL included.
    pub sql: String,
}

impl Schema {
    /// Runs one statement and returns its rows; at most 10,000 rows and 8 MiB.
    pub fn query(
        &self,
        sql: impl Into<String>,
        parameters: impl Parameters,
    ) -> Result<Rows, Error> {
        let statement = Statement::new(sql, parameters).contract();
        Ok(rows(platform::db::query(&self.name, &statement)?))
    }

    /// Runs one statement and returns how many rows it affected.
    pub fn execute(
        &self,
        sql: impl Into<String>,
        parameters: impl Parameters,
    ) -> Result<u64, Error> {
        let statement = Statement::new(sql, parameters).contract();
        Ok(platform::db::execute(&self.name, &statement)?)
    }

    /// Runs 1 to 100 statements in one transaction: all of them, or none.
    pub fn transaction(
        &self,
        statements: impl IntoIterator<Item = Statement>,
    ) -> Result<Vec<Rows>, Error> {
        let statements: Vec<_> = statements.into_iter().map(Statement::contract).collect();
        Ok(platform::db::transaction(&self.name, &statements)?.into_iter().map(rows).collect())
    }

    /// Applies the migrations that have not been applied to this organisation's schema, each once
    /// however many runs ask at a time. Returns the numbers of those that were applied now. Cheap when
    /// there is nothing to do: call it first thing.
    pub fn migrate(&self, migrations: &[Migration]) -> Result<Vec<u32>, Error> {
        let migrations: Vec<_> = migrations
            .iter()
            .map(|Migration { number, name, sql }| contract::Migration {
                number: *number,
                name: name.clone(),
                sql: sql.clone(),
            })
            .collect();
        Ok(platform::db::migrate(&self.name, &migrations)?)
    }
}

/// A statement of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// SQL with `$1`, `$2`, ….
    pub sql: String,
    /// Their values.
    pub parameters: Vec<Value>,
    /// How many rows it must affect.
    expected_rows: Option<u64>,
}

impl Statement {
    /// A statement with its parameters.
    pub fn new(sql: impl Into<String>, parameters: impl Parameters) -> Statement {
        Statement { sql: sql.into(), parameters: parameters.into_values(), expected_rows: None }
    }

    /// Nothing of the transaction is done unless this statement affects so many rows: an optimistic lock.
    pub fn expect(mut self, rows: u64) -> Statement {
        self.expected_rows = Some(rows);
        self
    }

    fn contract(self) -> contract::Statement {
        contract::Statement {
            sql: self.sql,
            parameters: self.parameters.into_iter().map(|value| value.0).collect(),
            expected_rows: self.expected_rows,
        }
    }
}

/// A value of a parameter or a column. Made of Rust's types with `into()`; a text adapts to what it is
/// compared with or stored in (an enum, a timestamp, an inet).
#[derive(Clone, Debug, PartialEq)]
pub struct Value(pub(crate) contract::Value);

macro_rules! value_from {
    ($($type:ty => |$value:ident| $made:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Value {
                Value($made)
            }
        })*
    };
}

value_from! {
    bool => |value| contract::Value::Boolean(value);
    i16 => |value| contract::Value::Integer(value.into());
    i32 => |value| contract::Value::Integer(value.into());
    i64 => |value| contract::Value::Integer(value);
    u16 => |value| contract::Value::Integer(value.into());
    u32 => |value| contract::Value::Integer(value.into());
    f32 => |value| contract::Value::Float(value.into());
    f64 => |value| contract::Value::Float(value);
    &str => |value| contract::Value::Text(value.into());
    &String => |value| contract::Value::Text(value.clone());
    String => |value| contract::Value::Text(value);
    &[u8] => |value| contract::Value::Bytes(value.into());
    Vec<u8> => |value| contract::Value::Bytes(value);
    serde_json::Value => |value| contract::Value::Json(value.to_string());
    &serde_json::Value => |value| contract::Value::Json(value.to_string());
    crate::RequestId => |value| contract::Value::Uuid(value.to_string());
    &crate::RequestId => |value| contract::Value::Uuid(value.to_string());
    Vec<String> => |value| contract::Value::Array(contract::Array::Texts(value.into_iter().map(Some).collect()));
    Vec<i64> => |value| contract::Value::Array(contract::Array::Integers(value.into_iter().map(Some).collect()));
    Vec<f64> => |value| contract::Value::Array(contract::Array::Floats(value.into_iter().map(Some).collect()));
    Vec<bool> => |value| contract::Value::Array(contract::Array::Booleans(value.into_iter().map(Some).collect()));
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::NULL, Into::into)
    }
}

impl Value {
    /// NULL.
    pub const NULL: Value = Value(contract::Value::Null);

    /// A decimal number of any precision, such as `"12.30"`.
    pub fn numeric(text: impl Into<String>) -> Value {
        Value(contract::Value::Numeric(text.into()))
    }

    /// A UUID.
    pub fn uuid(text: impl Into<String>) -> Value {
        Value(contract::Value::Uuid(text.into()))
    }

    /// A timestamptz: RFC 3339.
    pub fn timestamp(text: impl Into<String>) -> Value {
        Value(contract::Value::Timestamp(text.into()))
    }

    /// A date: `2026-11-24`.
    pub fn date(text: impl Into<String>) -> Value {
        Value(contract::Value::Date(text.into()))
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        self.0 == contract::Value::Null
    }

    /// The text of a text, a number, a UUID, a time: what has one. None for what has not.
    pub fn text(&self) -> Option<String> {
        match &self.0 {
            contract::Value::Text(text)
            | contract::Value::Numeric(text)
            | contract::Value::Json(text)
            | contract::Value::Uuid(text)
            | contract::Value::Timestamp(text)
            | contract::Value::Date(text) => Some(text.clone()),
            contract::Value::Other(other) => Some(other.text.clone()),
            contract::Value::Integer(value) => Some(value.to_string()),
            contract::Value::Float(value) => Some(value.to_string()),
            contract::Value::Boolean(value) => Some(value.to_string()),
            contract::Value::Null | contract::Value::Bytes(_) | contract::Value::Array(_) => None,
        }
    }

    /// As JSON: numbers, booleans, JSON and arrays as such, everything else as text; bytes as a list of
    /// numbers.
    pub fn to_json(&self) -> serde_json::Value {
        fn list<T: Clone>(
            values: &[Option<T>],
            case: impl Fn(T) -> contract::Value,
        ) -> serde_json::Value {
            let value = |value: &Option<T>| {
                value.clone().map_or(serde_json::Value::Null, |value| Value(case(value)).to_json())
            };
            values.iter().map(value).collect()
        }
        use contract::{Array, Value as Case};
        match &self.0 {
            Case::Null => serde_json::Value::Null,
            Case::Boolean(value) => (*value).into(),
            Case::Integer(value) => (*value).into(),
            Case::Float(value) => (*value).into(),
            Case::Bytes(bytes) => bytes.clone().into(),
            Case::Json(text) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
            Case::Array(array) => match array {
                Array::Booleans(values) => list(values, Case::Boolean),
                Array::Integers(values) => list(values, Case::Integer),
                Array::Floats(values) => list(values, Case::Float),
                Array::Numerics(values) => list(values, Case::Numeric),
                Array::Texts(values) => list(values, Case::Text),
                Array::Bytes(values) => list(values, Case::Bytes),
                Array::Jsons(values) => list(values, Case::Json),
                Array::Uuids(values) => list(values, Case::Uuid),
                Array::Timestamps(values) => list(values, Case::Timestamp),
                Array::Dates(values) => list(values, Case::Date),
            },
            _ => self.text().map_or(serde_json::Value::Null, Into::into),
        }
    }
}

/// What can be the parameters of a statement: `()`, an array or a list of one type, or a tuple of several.
pub trait Parameters {
    /// Their values, in order.
    fn into_values(self) -> Vec<Value>;
}

impl Parameters for () {
    fn into_values(self) -> Vec<Value> {
        Vec::new()
    }
}

impl<T: Into<Value>, const N: usize> Parameters for [T; N] {
    fn into_values(self) -> Vec<Value> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<Value>> Parameters for Vec<T> {
    fn into_values(self) -> Vec<Value> {
        self.into_iter().map(Into::into).collect()
    }
}

macro_rules! parameters_of_tuples {
    ($($name:ident)+) => {
        impl<$($name: Into<Value>),+> Parameters for ($($name,)+) {
            #[allow(non_snake_case)]
            fn into_values(self) -> Vec<Value> {
                let ($($name,)+) = self;
                vec![$($name.into()),+]
            }
        }
    };
}

parameters_of_tuples!(A);
parameters_of_tuples!(A B);
parameters_of_tuples!(A B C);
parameters_of_tuples!(A B C D);
parameters_of_tuples!(A B C D E);
parameters_of_tuples!(A B C D E F);
parameters_of_tuples!(A B C D E F G);
parameters_of_tuples!(A B C D E F G H);

/// What a statement answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    affected: u64,
}

impl Rows {
    /// An answer, for tests.
    pub fn new<const N: usize>(
        columns: [&str; N],
        rows: impl IntoIterator<Item = [Value; N]>,
    ) -> Rows {
        let rows: Vec<Vec<Value>> = rows.into_iter().map(Vec::from).collect();
        let affected = rows.len() as u64;
        Rows { columns: columns.map(str::to_owned).to_vec(), rows, affected }
    }

    /// An answer without rows, for tests: so many were affected.
    pub fn affecting(rows: u64) -> Rows {
        Rows { affected: rows, ..Rows::default() }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows were inserted, updated, deleted or selected.
    pub fn affected(&self) -> u64 {
        self.affected
    }

    /// The names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The values, row by row.
    pub fn values(&self) -> &[Vec<Value>] {
        &self.rows
    }

    /// The first column of the first row.
    pub fn value(&self) -> Option<&Value> {
        self.rows.first()?.first()
    }

    /// Every row as the skill's own type, by the names of the columns.
    pub fn all<T: DeserializeOwned>(&self) -> Result<Vec<T>, DataError> {
        (0..self.rows.len()).map(|row| self.row(row)).collect()
    }

    /// The only row as the skill's own type; an error if there is none or more than one.
    pub fn one<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        match self.rows.len() {
            1 => self.row(0),
            _ => Err(DataError::Missing { what: "single row" }),
        }
    }

    fn row<T: DeserializeOwned>(&self, row: usize) -> Result<T, DataError> {
        let values = self.rows[row].iter().map(Value::to_json);
        let object: serde_json::Map<_, _> = self.columns.iter().cloned().zip(values).collect();
        serde_json::from_value(object.into())
            .map_err(|source| DataError::Malformed { what: "row", source })
    }

    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn contract(self) -> contract::Rows {
        contract::Rows {
            columns: self
                .columns
                .into_iter()
                .map(|name| contract::Column { name, type_name: "unknown".into() })
                .collect(),
            rows: self
                .rows
                .into_iter()
                .map(|row| row.into_iter().map(|value| value.0).collect())
                .collect(),
            affected: self.affected,
        }
    }
}

fn rows(rows: contract::Rows) -> Rows {
    Rows {
        columns: rows.columns.into_iter().map(|column| column.name).collect(),
        rows: rows.rows.into_iter().map(|row| row.into_iter().map(Value).collect()).collect(),
        affected: rows.affected,
    }
}

/// What Postgres said of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlError {
    /// SQLSTATE, such as `23505` for a duplicate key.
    pub code: String,
    /// The message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The constraint that was violated.
    pub constraint: Option<String>,
    /// The character of the statement at which it was found out, from 1.
    pub position: Option<u32>,
    /// Which statement of a transaction or migration, from 0.
    pub statement: u32,
}

/// Why a call did not do what was asked.
///
/// With `?` it becomes a [`Failure`]: a retryable one where trying again may help, else a permanent one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Malformed: not one statement, not allowed, a value that is not what it says.
    Invalid(String),
    /// The schema is not named in `SKILL.md`, or not approved.
    Denied(String),
    /// Postgres refused the statement.
    Sql(Box<SqlError>),
    /// Too many rows or bytes, too long, too much at once.
    Limit(String),
    /// Another number of rows than [`Statement::expect`] said.
    RowCount(String),
    /// A migration that ran is not what it was.
    Migration(String),
    /// The database could not answer just now.
    Unavailable(String),
    /// Something that this version does not know by a case of its own.
    Other(String),
}

impl Error {
    /// The SQLSTATE, if Postgres has said one.
    pub fn code(&self) -> Option<&str> {
        match self {
            Error::Sql(said) => Some(&said.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed in another attempt.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Unavailable(_) | Error::Other(_) => true,
            // Serialisation failures, deadlocks, locks that could not be had.
            Error::Sql(said) => ["40001", "40P01", "55P03"].contains(&said.code.as_str()),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid(text) => write!(f, "invalid: {text}"),
            Error::Denied(text) => write!(f, "denied: {text}"),
            Error::Limit(text) => write!(f, "limit reached: {text}"),
            Error::RowCount(text) | Error::Migration(text) | Error::Other(text) => {
                f.write_str(text)
            }
            Error::Unavailable(text) => write!(f, "unavailable: {text}"),
            Error::Sql(said) => {
                write!(f, "{} (SQLSTATE {})", said.message, said.code)?;
                for more in [&said.detail, &said.hint].into_iter().flatten() {
                    write!(f, "; {more}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if error.is_retryable() { Failure::retryable(error) } else { Failure::permanent(error) }
    }
}

impl From<contract::Error> for Error {
    fn from(error: contract::Error) -> Error {
        match error {
            contract::Error::Invalid(text) => Error::Invalid(text),
            contract::Error::Denied(text) => Error::Denied(text),
            contract::Error::Sql(said) => Error::Sql(Box::new(SqlError {
                code: said.code,
                message: said.message,
                detail: said.detail,
                hint: said.hint,
                constraint: said.constraint,
                position: said.position,
                statement: said.statement,
            })),
            contract::Error::Limit(text) => Error::Limit(text),
            contract::Error::RowCount(text) => Error::RowCount(text),
            contract::Error::Migration(text) => Error::Migration(text),
            contract::Error::Unavailable(text) => Error::Unavailable(text),
            contract::Error::Other(text) => Error::Other(text),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl From<Error> for contract::Error {
    fn from(error: Error) -> contract::Error {
        match error {
            Error::Invalid(text) => contract::Error::Invalid(text),
            Error::Denied(text) => contract::Error::Denied(text),
            Error::Sql(said) => contract::Error::Sql(contract::SqlError {
                code: said.code,
                message: said.message,
                detail: said.detail,
                hint: said.hint,
                constraint: said.constraint,
                position: said.position,
                statement: said.statement,
            }),
            Error::Limit(text) => contract::Error::Limit(text),
            Error::RowCount(text) => contract::Error::RowCount(text),
            Error::Migration(text) => contract::Error::Migration(text),
            Error::Unavailable(text) => contract::Error::Unavailable(text),
            Error::Other(text) => contract::Error::Other(text),
        }
    }
}
