//! `eve:skill/db`: statements in the schemas of the run's organisation.
//!
//! Flow: a call's types are turned into ours here and handed to the [`DbHost`], which checks, admits and
//! runs it on the I/O runtime; what comes back is turned into the contract's terms.
//!
//! Invariants:
//! - Nothing is buffered: what is done is done at once, and stays whatever becomes of the run.
//! - A run that ends in the middle of a call drops the call, which stops it on the server.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::runtime::bindings::eve::skill::db as wit;
use crate::runtime::context::Context;
use crate::runtime::{HostFailure, limits};
use crate::schemas::{Column, Element, Migration, Rows, SchemaError, Statement, Value};

/// What a method of [`DbHost`] answers with, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, SchemaError>>;

/// The schemas of one organisation, as a run of it may use them. Bound to the organisation and the run
/// when it is made: no method takes either. Dropping a future stops what it does.
pub trait DbHost: Send + Sync {
    /// Runs statements: all of them or none.
    fn call<'a>(&'a self, schema: &'a str, calls: Vec<Statement>) -> Answer<'a, Vec<Rows>>;

    /// Applies migrations that have not been applied; answers with the numbers of those.
    fn migrate<'a>(&'a self, schema: &'a str, migrations: Vec<Migration>) -> Answer<'a, Vec<u32>>;
}

/// No database at all: what a component gets that is run apart from any organisation.
#[derive(Clone, Copy, Debug)]
pub struct NoDb;

impl DbHost for NoDb {
    fn call<'a>(&'a self, _: &'a str, _: Vec<Statement>) -> Answer<'a, Vec<Rows>> {
        Box::pin(async { Err(no_database()) })
    }

    fn migrate<'a>(&'a self, _: &'a str, _: Vec<Migration>) -> Answer<'a, Vec<u32>> {
        Box::pin(async { Err(no_database()) })
    }
}

fn no_database() -> SchemaError {
    SchemaError::Unavailable {
        doing: "opening a session",
        source: "there is no database here".into(),
    }
}

/// A run's side of the database.
pub(crate) struct Database {
    host: Arc<dyn DbHost>,
    io: Handle,
}

impl Database {
    pub(crate) fn new(host: Arc<dyn DbHost>, io: Handle) -> Self {
        Self { host, io }
    }

    /// Does something on the I/O runtime. The outer error is ours and ends the run.
    async fn ask<T, F>(
        &self,
        question: impl FnOnce(Arc<dyn DbHost>) -> F,
    ) -> wasmtime::Result<Result<T, wit::Error>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, SchemaError>> + Send + 'static,
    {
        let task = self.io.spawn(question(self.host.clone()));
        match AbortOnDropHandle::new(task).await {
            Ok(answer) => Ok(answer.map_err(guest_error)),
            Err(error) => Err(HostFailure::new("the database", error).into()),
        }
    }

    async fn call(
        &self,
        schema: String,
        statements: Vec<wit::Statement>,
    ) -> wasmtime::Result<Result<Vec<Rows>, wit::Error>> {
        let calls: Vec<Statement> = match statements.into_iter().map(host_statement).collect() {
            Ok(calls) => calls,
            Err(error) => return Ok(Err(guest_error(error))),
        };
        self.ask(|host| async move { host.call(&schema, calls).await }).await
    }
}

impl wit::Host for Context {
    async fn query(
        &mut self,
        schema: String,
        statement: wit::Statement,
    ) -> wasmtime::Result<Result<wit::Rows, wit::Error>> {
        let answers = self.db.call(schema, vec![statement]).await?;
        Ok(answers.map(|mut answers| guest_rows(answers.pop().unwrap_or_default())))
    }

    async fn execute(
        &mut self,
        schema: String,
        statement: wit::Statement,
    ) -> wasmtime::Result<Result<u64, wit::Error>> {
        let answers = self.db.call(schema, vec![statement]).await?;
        Ok(answers.map(|answers| answers.iter().map(|rows| rows.affected).sum()))
    }

    async fn transaction(
        &mut self,
        schema: String,
        statements: Vec<wit::Statement>,
    ) -> wasmtime::Result<Result<Vec<wit::Rows>, wit::Error>> {
        let answers = self.db.call(schema, statements).await?;
        Ok(answers.map(|answers| answers.into_iter().map(guest_rows).collect()))
    }

    async fn migrate(
        &mut self,
        schema: String,
        migrations: Vec<wit::Migration>,
    ) -> wasmtime::Result<Result<Vec<u32>, wit::Error>> {
        let migrations = migrations
            .into_iter()
            .map(|wit::Migration { number, name, sql }| Migration { number, name, sql })
            .collect();
        self.db.ask(|host| async move { host.migrate(&schema, migrations).await }).await
    }
}

fn host_statement(statement: wit::Statement) -> Result<Statement, SchemaError> {
    let wit::Statement { sql, parameters, expected_rows } = statement;
    let parameters: Vec<Value> = parameters.into_iter().map(host_value).collect();
    match parameters.iter().position(|value| value.bytes() > limits::STRING) {
        Some(index) => Err(SchemaError::Invalid(format!(
            "parameter ${} has more than {} bytes",
            index + 1,
            limits::STRING
        ))),
        None => Ok(Statement { sql, parameters, expected_rows }),
    }
}

fn host_value(value: wit::Value) -> Value {
    match value {
        wit::Value::Null => Value::Null,
        wit::Value::Boolean(value) => Value::Bool(value),
        wit::Value::Integer(value) => Value::Int(value),
        wit::Value::Float(value) => Value::Float(value),
        wit::Value::Numeric(text) => Value::Numeric(text),
        wit::Value::Text(text) => Value::Text(text),
        wit::Value::Bytes(bytes) => Value::Bytes(bytes),
        wit::Value::Json(text) => Value::Json(text),
        wit::Value::Uuid(text) => Value::Uuid(text),
        wit::Value::Timestamp(text) => Value::Timestamp(text),
        wit::Value::Date(text) => Value::Date(text),
        wit::Value::Array(array) => host_array(array),
        wit::Value::Other(wit::OtherValue { type_name, text }) => Value::Other { type_name, text },
    }
}

fn host_array(array: wit::Array) -> Value {
    fn of<T>(element: Element, values: Vec<Option<T>>, value: impl Fn(T) -> Value) -> Value {
        let values = values.into_iter().map(|v| v.map_or(Value::Null, &value)).collect();
        Value::Array(element, values)
    }
    match array {
        wit::Array::Booleans(values) => of(Element::Bool, values, Value::Bool),
        wit::Array::Integers(values) => of(Element::Int, values, Value::Int),
        wit::Array::Floats(values) => of(Element::Float, values, Value::Float),
        wit::Array::Numerics(values) => of(Element::Numeric, values, Value::Numeric),
        wit::Array::Texts(values) => of(Element::Text, values, Value::Text),
        wit::Array::Bytes(values) => of(Element::Bytes, values, Value::Bytes),
        wit::Array::Jsons(values) => of(Element::Json, values, Value::Json),
        wit::Array::Uuids(values) => of(Element::Uuid, values, Value::Uuid),
        wit::Array::Timestamps(values) => of(Element::Timestamp, values, Value::Timestamp),
        wit::Array::Dates(values) => of(Element::Date, values, Value::Date),
    }
}

fn guest_rows(rows: Rows) -> wit::Rows {
    wit::Rows {
        columns: rows
            .columns
            .into_iter()
            .map(|Column { name, type_name }| wit::Column { name, type_name })
            .collect(),
        rows: rows.rows.into_iter().map(|row| row.into_iter().map(guest_value).collect()).collect(),
        affected: rows.affected,
    }
}

fn guest_value(value: Value) -> wit::Value {
    match value {
        Value::Null => wit::Value::Null,
        Value::Bool(value) => wit::Value::Boolean(value),
        Value::Int(value) => wit::Value::Integer(value),
        Value::Float(value) => wit::Value::Float(value),
        Value::Numeric(text) => wit::Value::Numeric(text),
        Value::Text(text) => wit::Value::Text(text),
        Value::Bytes(bytes) => wit::Value::Bytes(bytes),
        Value::Json(text) => wit::Value::Json(text),
        Value::Uuid(text) => wit::Value::Uuid(text),
        Value::Timestamp(text) => wit::Value::Timestamp(text),
        Value::Date(text) => wit::Value::Date(text),
        Value::Array(element, values) => wit::Value::Array(guest_array(element, values)),
        Value::Other { type_name, text } => wit::Value::Other(wit::OtherValue { type_name, text }),
    }
}

fn guest_array(element: Element, values: Vec<Value>) -> wit::Array {
    /// Elements are of the array's kind or null.
    fn of<T>(values: Vec<Value>, pick: impl Fn(Value) -> Option<T>) -> Vec<Option<T>> {
        values.into_iter().map(pick).collect()
    }
    macro_rules! pick {
        ($case:ident) => {
            of(values, |value| match value {
                Value::$case(value) => Some(value),
                _ => None,
            })
        };
    }
    match element {
        Element::Bool => wit::Array::Booleans(pick!(Bool)),
        Element::Int => wit::Array::Integers(pick!(Int)),
        Element::Float => wit::Array::Floats(pick!(Float)),
        Element::Numeric => wit::Array::Numerics(pick!(Numeric)),
        Element::Text => wit::Array::Texts(pick!(Text)),
        Element::Bytes => wit::Array::Bytes(pick!(Bytes)),
        Element::Json => wit::Array::Jsons(pick!(Json)),
        Element::Uuid => wit::Array::Uuids(pick!(Uuid)),
        Element::Timestamp => wit::Array::Timestamps(pick!(Timestamp)),
        Element::Date => wit::Array::Dates(pick!(Date)),
    }
}

fn guest_error(error: SchemaError) -> wit::Error {
    match error {
        SchemaError::Invalid(text) => wit::Error::Invalid(text),
        SchemaError::Denied(text) => wit::Error::Denied(text),
        SchemaError::NotFound(_) => wit::Error::Denied(error.to_string()),
        SchemaError::Limit(text) => wit::Error::Limit(text),
        SchemaError::RowCount(text) => wit::Error::RowCount(text),
        SchemaError::Migration(text) => wit::Error::Migration(text),
        SchemaError::Sql(said) => wit::Error::Sql(wit::SqlError {
            code: said.code,
            message: said.message,
            detail: said.detail,
            hint: said.hint,
            constraint: said.constraint,
            position: said.position,
            statement: said.statement,
        }),
        SchemaError::LeaseLost => wit::Error::Unavailable(error.to_string()),
        SchemaError::Unavailable { .. } | SchemaError::Database { .. } => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a guest's database call could not be served"
            );
            wit::Error::Unavailable("the database cannot answer just now".into())
        }
    }
}
