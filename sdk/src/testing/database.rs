//! The fake database: the test says what it answers.

#![expect(clippy::result_large_err, reason = "the contract's own error, as it is generated")]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::bindings::eve::skill::db as contract;
use crate::db::{Error, Migration, Rows, Value};

/// A statement that a skill has sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// To which schema.
    pub schema: String,
    /// The statement.
    pub sql: String,
    /// Its parameters.
    pub parameters: Vec<Value>,
}

type Answers = dyn FnMut(&Call) -> Result<Rows, Error> + Send;

/// What answers, and what it was asked.
#[derive(Clone, Default)]
pub(super) struct Database {
    answers: Option<Arc<Mutex<Answers>>>,
    pub calls: Vec<Call>,
    pub migrated: Vec<(String, Migration)>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Database {
    pub fn answering(answers: impl FnMut(&Call) -> Result<Rows, Error> + Send + 'static) -> Self {
        Self { answers: Some(Arc::new(Mutex::new(answers))), ..Self::default() }
    }

    pub fn run(
        &mut self,
        schema: &str,
        statement: &contract::Statement,
    ) -> Result<contract::Rows, contract::Error> {
        let call = Call {
            schema: schema.to_owned(),
            sql: statement.sql.clone(),
            parameters: statement.parameters.iter().cloned().map(Value).collect(),
        };
        self.calls.push(call.clone());
        let Some(answers) = &self.answers else {
            return Err(contract::Error::Denied(format!(
                "the test has no database: give the host one with `.database(|call| …)`, for {call:?}"
            )));
        };
        let rows = {
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers(&call)?
        };
        match statement.expected_rows {
            Some(expected) if expected != rows.affected() => {
                Err(contract::Error::RowCount(format!(
                    "{expected} rows were expected to be affected, and {} would have been",
                    rows.affected()
                )))
            }
            _ => Ok(rows.contract()),
        }
    }

    /// Every migration is applied once.
    pub fn migrate(&mut self, schema: &str, migrations: &[contract::Migration]) -> Vec<u32> {
        let mut applied = Vec::new();
        for contract::Migration { number, name, sql } in migrations {
            let known =
                self.migrated.iter().any(|(of, known)| of == schema && known.number == *number);
            if !known {
                let migration = crate::db::migration(*number, name.clone(), sql.clone());
                self.migrated.push((schema.to_owned(), migration));
                applied.push(*number);
            }
        }
        applied
    }
}
