//! Schemas: what skills keep, as members see and change it.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::extract::{Allowed, Json, ManageOrg, Path, ReadRequests, WriteRequests};
use crate::http::problem::Problem;
use crate::http::routes::Items;
use crate::schemas::{AppliedMigration, Rows, Schema, SchemaName, Shell, Statement, Value};

/// A statement with its parameters.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlCall {
    /// One statement: SELECT, VALUES, INSERT, UPDATE, DELETE, MERGE or EXPLAIN; at most 256 KiB.
    pub sql: String,
    /// The values of `$1`, `$2`, …: null, booleans, numbers, texts (which adapt to what they are compared
    /// with or stored in), objects and lists (as jsonb); at most 1,000.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    pub parameters: Vec<serde_json::Value>,
}

/// What a statement answered; at most 10,000 rows and 8 MiB.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SqlAnswer {
    /// The columns; none if the statement returns no rows at all.
    pub columns: Vec<SqlColumn>,
    /// The rows, each a list of values in the order of the columns. What has no JSON of its own (numeric,
    /// times, bytes) is text as Postgres writes it.
    #[schema(value_type = Vec<Vec<Object>>)]
    pub rows: Vec<Vec<serde_json::Value>>,
    /// How many rows were inserted, updated, deleted or selected.
    pub affected: u64,
}

/// A column.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SqlColumn {
    /// Its name.
    pub name: String,
    /// The name of its type in Postgres.
    pub type_name: String,
}

impl From<Rows> for SqlAnswer {
    fn from(rows: Rows) -> Self {
        SqlAnswer {
            columns: rows
                .columns
                .into_iter()
                .map(|column| SqlColumn { name: column.name, type_name: column.type_name })
                .collect(),
            rows: rows.rows.iter().map(|row| row.iter().map(Value::to_json).collect()).collect(),
            affected: rows.affected,
        }
    }
}

/// Lists the organisation's schemas.
#[utoipa::path(
    get, path = "/v1/schemas", tag = "schemas",
    responses((status = 200, description = "By name; at most 1,000", body = Items<Schema>))
)]
pub async fn list_schemas(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
) -> Result<Json<Items<Schema>>, Problem> {
    Ok(Json(Items { items: state.schemas.list(caller.tenant).await? }))
}

/// Runs one statement in a schema. It takes effect at once.
#[utoipa::path(
    post, path = "/v1/schemas/{schema}/query", tag = "schemas", params(("schema" = String, Path)),
    request_body = SqlCall,
    responses((status = 200, description = "What it answered", body = SqlAnswer))
)]
pub async fn run_statement(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<WriteRequests>,
    Path(schema): Path<String>,
    Json(call): Json<SqlCall>,
) -> Result<Json<SqlAnswer>, Problem> {
    let schema: SchemaName = schema.parse()?;
    let call = Statement {
        sql: call.sql,
        parameters: call.parameters.iter().map(Value::from_json).collect(),
        expected_rows: None,
    };
    let mut answers = state.schemas.call(caller.tenant, &caller.actor, &schema, &[call]).await?;
    Ok(Json(answers.remove(0).into()))
}

/// Makes a role for a person's own tools, psql for one, in a schema. It lives for an hour. For
/// administrators: what they say is not looked at, and the server's address has to be reachable for them.
#[utoipa::path(
    post, path = "/v1/schemas/{schema}/shell", tag = "schemas", params(("schema" = String, Path)),
    responses((status = 201, description = "Where to connect to, and as whom", body = Shell)),
    security(("bearer" = ["admin"])),
)]
pub async fn open_shell(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ManageOrg>,
    Path(schema): Path<String>,
) -> Result<(StatusCode, Json<Shell>), Problem> {
    let schema: SchemaName = schema.parse()?;
    let shell = state.schemas.open_shell(caller.tenant, &caller.actor, &schema).await?;
    Ok((StatusCode::CREATED, Json(shell)))
}

/// Lists what has been migrated in a schema.
#[utoipa::path(
    get, path = "/v1/schemas/{schema}/migrations", tag = "schemas", params(("schema" = String, Path)),
    responses((status = 200, description = "In order", body = Items<AppliedMigration>))
)]
pub async fn list_migrations(
    State(state): State<AppState>,
    Allowed(caller, _): Allowed<ReadRequests>,
    Path(schema): Path<String>,
) -> Result<Json<Items<AppliedMigration>>, Problem> {
    let schema: SchemaName = schema.parse()?;
    let items = state.schemas.migrations(caller.tenant, &schema).await?;
    Ok(Json(Items { items }))
}
