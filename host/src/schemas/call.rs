//! One call: statements in, answers out, all or nothing.

use std::pin::pin;

use futures::TryStreamExt as _;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::connections::Lease;
use super::statements::{self, Checked};
use super::values::{self, Value};
use super::{SchemaError, limits};

/// A statement with its parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statement {
    /// SQL with `$1`, `$2`, ….
    pub sql: String,
    /// Their values.
    pub parameters: Vec<Value>,
    /// How many rows it must affect or return.
    pub expected_rows: Option<u64>,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The name of its type.
    pub type_name: String,
}

/// What a statement answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// None if it returns no rows at all.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
    /// Rows inserted, updated, deleted or selected.
    pub affected: u64,
}

/// What is left of a call's answer.
struct Room {
    rows: usize,
    bytes: usize,
    memory: usize,
}

/// Checks every statement of a call before the first is sent.
pub(super) fn check(calls: &[Statement]) -> Result<Vec<Checked>, SchemaError> {
    if calls.is_empty() || calls.len() > limits::STATEMENTS {
        return Err(SchemaError::Invalid(format!(
            "a transaction has 1 to {} statements",
            limits::STATEMENTS
        )));
    }
    calls
        .iter()
        .enumerate()
        .map(|(index, call)| {
            let checked = statements::check(&call.sql).and_then(|checked| {
                if call.parameters.len() > limits::PARAMETERS {
                    return Err(SchemaError::Invalid(format!(
                        "{} parameters; at most {} are allowed",
                        call.parameters.len(),
                        limits::PARAMETERS
                    )));
                }
                if call.parameters.len() != checked.parameters {
                    return Err(SchemaError::Invalid(format!(
                        "the statement takes {} parameters, and {} were given",
                        checked.parameters,
                        call.parameters.len()
                    )));
                }
                Ok(checked)
            });
            checked.map_err(|error| numbered(error, index, calls.len()))
        })
        .collect()
}

/// Says which statement is meant, where there are several.
pub(super) fn numbered(error: SchemaError, index: usize, of: usize) -> SchemaError {
    match error {
        SchemaError::Sql(mut said) => {
            said.statement = index as u32;
            SchemaError::Sql(said)
        }
        SchemaError::Invalid(text) if of > 1 => {
            SchemaError::Invalid(format!("statement {index}: {text}"))
        }
        other => other,
    }
}

/// Runs statements that were checked. A single one that only reads needs no transaction of its own.
pub(super) async fn run(
    lease: &mut Lease,
    calls: &[Statement],
    checked: &[Checked],
) -> Result<Vec<Rows>, SchemaError> {
    let client = lease.client();
    let mut room = Room { rows: limits::ROWS, bytes: limits::ANSWER, memory: limits::DECODED };
    let alone = calls.len() == 1 && !checked.iter().any(|checked| checked.writes);
    if alone && calls[0].expected_rows.is_none() {
        return Ok(vec![one(client, &calls[0], 0, &mut room).await?]);
    }
    let failed = |error| SchemaError::of_client("running statements", error, 0);
    client.batch_execute("BEGIN").await.map_err(failed)?;
    let mut answers = Vec::with_capacity(calls.len());
    for (index, call) in calls.iter().enumerate() {
        match one(client, call, index, &mut room).await {
            Ok(rows) => answers.push(rows),
            Err(error) => {
                // Too much on its way: the session is given up with its transaction.
                if matches!(error, SchemaError::Sql(_) | SchemaError::RowCount(_)) {
                    client.batch_execute("ROLLBACK").await.map_err(failed)?;
                }
                return Err(numbered(error, index, calls.len()));
            }
        }
    }
    client.batch_execute("COMMIT").await.map_err(failed)?;
    Ok(answers)
}

async fn one(
    client: &Client,
    call: &Statement,
    index: usize,
    room: &mut Room,
) -> Result<Rows, SchemaError> {
    let failed = |error| SchemaError::of_client("running a statement", error, index);
    let parameters: Vec<(&Value, Type)> =
        call.parameters.iter().map(|value| (value, value.parameter_type())).collect();
    let stream = client.query_typed_raw(&call.sql, parameters).await.map_err(failed)?;
    let mut answer = Rows::default();
    let mut stream = pin!(stream);
    while let Some(row) = stream.try_next().await.map_err(failed)? {
        if answer.columns.is_empty() {
            answer.columns = row
                .columns()
                .iter()
                .map(|column| Column {
                    name: column.name().to_owned(),
                    type_name: column.type_().name().to_owned(),
                })
                .collect();
        }
        let mut values = Vec::with_capacity(row.len());
        for index in 0..row.len() {
            let value = values::within(&mut room.memory, || row.try_get::<_, Value>(index));
            values.push(value.map_err(failed)?);
        }
        let bytes: usize = values.iter().map(Value::bytes).sum();
        let (Some(rows), Some(bytes)) = (room.rows.checked_sub(1), room.bytes.checked_sub(bytes))
        else {
            return Err(SchemaError::Limit(format!(
                "the answer has more than {} rows or {} MiB; ask for fewer (LIMIT)",
                limits::ROWS,
                limits::ANSWER >> 20
            )));
        };
        (room.rows, room.bytes) = (rows, bytes);
        answer.rows.push(values);
    }
    answer.affected = stream.rows_affected().unwrap_or(0);
    match call.expected_rows {
        Some(expected) if expected != answer.affected => Err(SchemaError::RowCount(format!(
            "{expected} rows were expected to be affected, and {} would have been",
            answer.affected
        ))),
        _ => Ok(answer),
    }
}
