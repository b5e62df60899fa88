//! Which statements may run: looked at by Postgres' own parser, before Postgres sees them.
//!
//! Data statements everywhere, DDL in migrations, everything else nowhere. What is allowed is listed,
//! so that a statement which nobody has thought of is refused. What a statement may *do* is not this
//! file's business: the role that runs it owns one schema and nothing else.

use pg_query::NodeEnum;
use pg_query::protobuf::{DefElem, ScanToken, Token};

use super::SchemaError;
use super::limits;

/// Where a statement is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A call of its own, or one of a transaction.
    Call,
    /// A migration.
    Migration,
}

/// What is known of a statement that may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whether it does more than read, as far as its words say; a function may.
    pub writes: bool,
    /// The highest `$n` in it.
    pub parameters: usize,
}

/// Statements that read and write rows.
const DATA: [&str; 6] =
    ["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "ExplainStmt"];

/// Statements that shape a schema; with those of [`DATA`], what a migration consists of.
const DDL: [&str; 23] = [
    "AlterDomainStmt",
    "AlterEnumStmt",
    "AlterObjectSchemaStmt",
    "AlterSeqStmt",
    "AlterTableStmt",
    "AlterTypeStmt",
    "CommentStmt",
    "CompositeTypeStmt",
    "CreateDomainStmt",
    "CreateEnumStmt",
    "CreateFunctionStmt",
    "CreateSeqStmt",
    "CreateStmt",
    "CreateTableAsStmt",
    "CreateTrigStmt",
    "DropStmt",
    "IndexStmt",
    "RefreshMatViewStmt",
    "RenameStmt",
    "ReturnStmt",
    "TruncateStmt",
    "ViewStmt",
    "AlterFunctionStmt",
];

/// Checks one statement.
pub fn check(sql: &str) -> Result<Checked, SchemaError> {
    sized(sql)?;
    match split(sql)?.len() {
        0 => return Err(SchemaError::Invalid("there is no statement here".into())),
        1 => {}
        count => {
            let said = format!("one statement a call, and these are {count}");
            return Err(SchemaError::Invalid(said));
        }
    }
    Ok(Checked { writes: allowed(sql, Place::Call)?, parameters: parameters(sql)? })
}

/// Takes a migration apart into its statements, each of which may run.
pub fn migration(sql: &str) -> Result<Vec<String>, SchemaError> {
    sized(sql)?;
    let parts = split(sql)?;
    if parts.is_empty() {
        return Err(SchemaError::Invalid("there is no statement in it".into()));
    }
    if parts.len() > limits::MIGRATION_STATEMENTS {
        return Err(SchemaError::Invalid(format!(
            "a migration has at most {} statements, and this one has {}",
            limits::MIGRATION_STATEMENTS,
            parts.len()
        )));
    }
    for part in &parts {
        allowed(part, Place::Migration)?;
        let parsed = parse(part)?;
        functions(&parsed)?;
        elements(&parsed)?;
    }
    Ok(parts)
}

fn sized(sql: &str) -> Result<(), SchemaError> {
    if sql.len() > limits::STATEMENT {
        return Err(SchemaError::Invalid(format!(
            "{} bytes of SQL; at most {} are allowed",
            sql.len(),
            limits::STATEMENT
        )));
    }
    if sql.contains('\0') {
        return Err(SchemaError::Invalid("SQL may not contain the character U+0000".into()));
    }
    Ok(())
}

fn split(sql: &str) -> Result<Vec<String>, SchemaError> {
    let parts = pg_query::split_with_parser(sql).map_err(unparsable)?;
    Ok(parts
        .into_iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect())
}

/// The whole tree, on a stack of its own: reading it recurses, a hundred levels at most, and some twenty
/// kilobytes on each. `SELECT 1+1+…` has overflown the two megabytes that our threads have.
pub(crate) fn parse(sql: &str) -> Result<pg_query::ParseResult, SchemaError> {
    const STACK: usize = 64 << 20;
    let parsed = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("eve-sql".into()).stack_size(STACK);
        let parser = thread.spawn_scoped(scope, || pg_query::parse(sql, 0))?;
        Ok(parser.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)))
    });
    let unavailable = |source: std::io::Error| SchemaError::Unavailable {
        doing: "looking at a statement",
        source: source.into(),
    };
    parsed.map_err(unavailable)?.map_err(unparsable)
}

/// Refuses what may not run, of a statement that has been split off: the summary has no word for a syntax
/// error. Says whether it writes.
fn allowed(sql: &str, place: Place) -> Result<bool, SchemaError> {
    let summary = pg_query::summary(sql, 0, -1).map_err(unparsable)?;
    let types = summary.statement_types();
    if types.is_empty() {
        return Err(SchemaError::Invalid("there is no statement here".into()));
    }
    for kind in &types {
        let fine = DATA.contains(kind) || place == Place::Migration && DDL.contains(kind);
        if !fine {
            return Err(refused(kind, place));
        }
    }
    // SELECT … INTO makes a table, and so may EXPLAIN ANALYZE of what does.
    if place == Place::Call
        && !summary.protobuf.tables.iter().all(|table| table.context != DDL_CONTEXT)
    {
        return Err(refused("SELECT … INTO", place));
    }
    Ok(types.iter().any(|kind| *kind != "SelectStmt"))
}

/// The highest `$n` of a statement.
fn parameters(sql: &str) -> Result<usize, SchemaError> {
    let scanned = pg_query::scan(sql).map_err(unparsable)?;
    let number = |token: &ScanToken| -> Option<usize> {
        let text = sql.get(token.start as usize..token.end as usize)?;
        text.strip_prefix('$')?.parse().ok()
    };
    let parameters = scanned.tokens.iter().filter(|token| token.token == Token::Param as i32);
    Ok(parameters.filter_map(number).max().unwrap_or(0))
}

/// A function's body may be text, which Postgres looks at only when it runs: it is looked at here. Nor may
/// a function bring settings of its own: they would undo those of its role.
fn functions(parsed: &pg_query::ParseResult) -> Result<(), SchemaError> {
    let nodes = parsed.protobuf.stmts.iter().filter_map(|raw| raw.stmt.as_ref()?.node.as_ref());
    for node in nodes {
        let options = match node {
            NodeEnum::CreateFunctionStmt(function) => &function.options,
            NodeEnum::AlterFunctionStmt(function) => &function.actions,
            _ => continue,
        };
        for option in options {
            let Some(NodeEnum::DefElem(option)) = &option.node else { continue };
            match option.defname.as_str() {
                "set" => {
                    return Err(SchemaError::Invalid(
                        "a function with settings of its own (SET) is not allowed".into(),
                    ));
                }
                // An immutable function can stand in an index, which the server's own workers evaluate:
                // without our limits.
                "volatility" if texts_of(option) == ["immutable"] => {
                    return Err(SchemaError::Invalid(
                        "a function that is IMMUTABLE is not allowed: make it STABLE".into(),
                    ));
                }
                "as" => body(option)?,
                "language" => language(option)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn texts(node: &pg_query::protobuf::Node) -> Vec<&str> {
    match &node.node {
        Some(NodeEnum::String(text)) => vec![&text.sval],
        Some(NodeEnum::List(list)) => list.items.iter().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

fn texts_of(option: &DefElem) -> Vec<&str> {
    option.arg.as_deref().map(texts).unwrap_or_default()
}

/// What one statement makes or changes, each with a lock in the table that the whole server shares.
fn elements(parsed: &pg_query::ParseResult) -> Result<(), SchemaError> {
    let nodes = parsed.protobuf.stmts.iter().filter_map(|raw| raw.stmt.as_ref()?.node.as_ref());
    for node in nodes {
        let elements = match node {
            NodeEnum::CreateStmt(table) => &table.table_elts,
            NodeEnum::AlterTableStmt(table) => &table.cmds,
            NodeEnum::CompositeTypeStmt(composite) => &composite.coldeflist,
            NodeEnum::DropStmt(drop) => &drop.objects,
            NodeEnum::TruncateStmt(truncate) => &truncate.relations,
            _ => continue,
        };
        if elements.len() > limits::ELEMENTS {
            return Err(SchemaError::Invalid(format!(
                "{} columns, constraints or changes in one statement; at most {} are allowed",
                elements.len(),
                limits::ELEMENTS
            )));
        }
        let copies = elements.iter().any(|element| {
            matches!(&element.node, Some(NodeEnum::TableLikeClause(like)) if like.options != 0)
        });
        if copies {
            return Err(SchemaError::Invalid(
                "LIKE … INCLUDING is not allowed: write the columns out".into(),
            ));
        }
    }
    Ok(())
}

fn language(option: &DefElem) -> Result<(), SchemaError> {
    match texts_of(option).as_slice() {
        ["sql"] => Ok(()),
        other => Err(SchemaError::Invalid(format!(
            "language {}: functions are written in SQL; triggers and loops belong into the skill",
            other.join(" ")
        ))),
    }
}

fn body(option: &DefElem) -> Result<(), SchemaError> {
    for text in texts_of(option) {
        for statement in split(text)? {
            allowed(&statement, Place::Call).map_err(|error| match error {
                SchemaError::Invalid(said) => {
                    SchemaError::Invalid(format!("the body of a function: {said}"))
                }
                other => other,
            })?;
        }
    }
    Ok(())
}

const DDL_CONTEXT: i32 = pg_query::protobuf::summary_result::Context::Ddl as i32;

fn refused(kind: &str, place: Place) -> SchemaError {
    let kind = kind.strip_suffix("Stmt").unwrap_or(kind);
    let ddl = DDL.iter().any(|ddl| ddl.strip_suffix("Stmt") == Some(kind)) || kind.contains("INTO");
    SchemaError::Invalid(match place {
        Place::Call if ddl => format!(
            "{kind}: a statement that shapes the schema belongs into a migration; here SELECT, VALUES, \
             INSERT, UPDATE, DELETE, MERGE and EXPLAIN are allowed"
        ),
        Place::Call => format!(
            "{kind}: this kind of statement is not allowed; SELECT, VALUES, INSERT, UPDATE, DELETE, \
             MERGE and EXPLAIN are"
        ),
        Place::Migration => format!(
            "{kind}: this kind of statement is not allowed in a migration; tables, indexes, views, \
             types, sequences, functions in SQL, and data statements are"
        ),
    })
}

/// A syntax error has the SQLSTATE that Postgres would give it.
fn unparsable(error: pg_query::Error) -> SchemaError {
    match error {
        pg_query::Error::Parse(message)
        | pg_query::Error::Scan(message)
        | pg_query::Error::Split(message) => SchemaError::Sql(Box::new(super::SqlError {
            code: "42601".into(),
            message,
            ..super::SqlError::default()
        })),
        // Its tree cannot be read: of the ways to fail at that, the one that SQL can bring about.
        pg_query::Error::Decode(_) => SchemaError::Invalid("it is nested too deeply".into()),
        other => SchemaError::Invalid(format!("this is not SQL that can be parsed: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_statements_pass() {
        for (sql, writes) in [
            ("SELECT 1", false),
            ("select * from t where a = $1 for update", false),
            ("VALUES (1), (2)", false),
            ("TABLE t", false),
            ("WITH x AS (SELECT 1) SELECT * FROM x;", false),
            ("INSERT INTO t (a) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id", true),
            ("UPDATE t SET a = 1", true),
            ("DELETE FROM t", true),
            ("WITH gone AS (DELETE FROM t RETURNING *) SELECT count(*) FROM gone", true),
            ("MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE", true),
            ("EXPLAIN SELECT 1", true),
            ("-- a comment\nSELECT 'a;b'", false),
        ] {
            match check(sql) {
                Ok(checked) => assert_eq!(checked.writes, writes, "{sql}"),
                Err(error) => panic!("{sql}: {error}"),
            }
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for sql in [
            "",
            ";",
            "SELECT 1; SELECT 2",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT a",
            "SET ROLE postgres",
            "SET SESSION AUTHORIZATION postgres",
            "RESET ALL",
            "RESET ROLE",
            "SET search_path = pg_catalog",
            "SHOW ALL",
            "COPY t FROM STDIN",
            "COPY t TO PROGRAM 'id'",
            "COPY (SELECT 1) TO STDOUT",
            "LISTEN a",
            "NOTIFY a, 'b'",
            "UNLISTEN *",
            "LOCK TABLE t",
            "DO $$ BEGIN END $$",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE ALL",
            "DISCARD ALL",
            "CREATE TABLE t (a int)",
            "DROP TABLE t",
            "TRUNCATE t",
            "CREATE ROLE x",
            "ALTER ROLE x PASSWORD 'y'",
            "ALTER USER CURRENT_USER PASSWORD 'y'",
            "GRANT SELECT ON t TO PUBLIC",
            "REVOKE ALL ON t FROM x",
            "VACUUM",
            "ANALYZE",
            "CHECKPOINT",
            "LOAD 'x'",
            "CREATE EXTENSION dblink",
            "ALTER SYSTEM SET a = 1",
            "CREATE DATABASE x",
            "DROP OWNED BY CURRENT_USER",
            "REASSIGN OWNED BY a TO b",
            "SELECT 1 INTO t",
            "CREATE TABLE t AS SELECT 1",
            "EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1",
            "EXPLAIN EXECUTE p",
            "DECLARE c CURSOR FOR SELECT 1",
            "FETCH c",
            "CALL p()",
            "SECURITY LABEL ON TABLE t IS 'x'",
            "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c",
            "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
        ] {
            assert!(matches!(check(sql), Err(SchemaError::Invalid(_))), "{sql}: {:?}", check(sql));
        }
        let parameters = |sql| check(sql).map(|checked| checked.parameters).unwrap();
        assert_eq!(parameters("SELECT $2::int, '$9', $1 -- $7"), 2);
        assert!(matches!(check("SELEC 1"), Err(SchemaError::Sql(error)) if error.code == "42601"));
    }

    #[test]
    fn migrations_shape_and_fill() {
        let parts = migration(
            "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text CHECK (a <> ';'));
             CREATE UNIQUE INDEX ON t (lower(a)); -- why
             CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE VIEW v AS SELECT * FROM t;
             INSERT INTO t (a) VALUES ('x;y'); ALTER TABLE t ADD COLUMN b jsonb;
             CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql RETURN a + 1; COMMENT ON TABLE t IS 'x';
             CREATE FUNCTION g() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT count(*) FROM t; $$",
        );
        assert_eq!(parts.unwrap().len(), 9);
        for sql in [
            "",
            "COMMIT",
            "CREATE TABLE t (a int); COMMIT; CREATE TABLE u (a int)",
            "SET ROLE x",
            "GRANT ALL ON t TO PUBLIC",
            "DO $$ $$",
            "CREATE EXTENSION x",
            "CREATE ROLE x",
            "CREATE SCHEMA x",
            "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()",
            "COPY t FROM STDIN",
            "CREATE LANGUAGE plperl",
            "ALTER ROLE CURRENT_USER SET work_mem = '1GB'",
            "ALTER SCHEMA a OWNER TO b",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
            "CREATE PUBLICATION p",
            "CREATE SERVER s FOREIGN DATA WRAPPER w",
            // What would hide in what runs later.
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ ALTER USER CURRENT_USER PASSWORD 'y' $$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'SELECT 1; NOTIFY a, ''b'''",
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'CREATE TABLE x (a int)'",
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql SET work_mem = '8GB' AS 'SELECT 1'",
            "ALTER FUNCTION f() SET statement_timeout = 0",
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'libc', 'getpid'",
            "CREATE PROCEDURE f() LANGUAGE sql AS 'COMMIT'",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
            "ALTER FUNCTION f() IMMUTABLE",
            "CREATE STATISTICS s ON (f(a)), b FROM t",
            "CREATE TYPE r AS RANGE (subtype = int)",
            "CREATE AGGREGATE a(int) (sfunc = f, stype = int)",
            "CREATE TABLE u (LIKE t INCLUDING ALL)",
            &format!(
                "CREATE TABLE u ({})",
                (0..301).map(|n| format!("c{n} serial")).collect::<Vec<_>>().join(", ")
            ),
            "CREATE RULE r AS ON INSERT TO t DO ALSO NOTIFY a",
        ] {
            assert!(
                matches!(migration(sql), Err(SchemaError::Invalid(_))),
                "{sql}: {:?}",
                migration(sql)
            );
        }
    }

    #[test]
    fn what_is_nested_is_an_answer_or_an_error_and_never_the_end_of_the_stack() {
        let shapes = [
            ("", "+1", ""),
            ("(", "", ")"),
            ("NOT ", "", ""),
            ("- ", "", ""),
            ("f(", "", ")"),
            ("(SELECT ", "", ")"),
            ("CASE WHEN true THEN ", "", " END"),
            ("ARRAY[", "", "]"),
            ("CAST(", "", " AS int)"),
        ];
        for (before, between, after) in shapes {
            for times in [10, 20, 40, 48, 60, 100, 200, 1_000, 5_000, 100_000] {
                let nested =
                    before.repeat(times) + "1" + &between.repeat(times) + &after.repeat(times);
                // Whatever the answer is, it is one.
                let said = check(&format!("SELECT {nested}"));
                assert!(times > 40 || said.is_ok(), "{nested}: {said:?}");
                let _ = check(&format!("INSERT INTO t SELECT {nested}"));
                let _ = migration(&format!("CREATE TABLE t (a int CHECK ({nested} = 1))"));
                let _ = migration(&format!(
                    "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN {nested}"
                ));
                let _ = migration(&format!(
                    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT {nested}'"
                ));
            }
        }
        let sum = format!("CREATE TABLE t (a int CHECK (a > 1{}))", "+1".repeat(200));
        assert_eq!(migration(&sum).unwrap_err().to_string(), "it is nested too deeply");
    }
}
