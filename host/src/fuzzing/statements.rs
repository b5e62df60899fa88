//! SQL of guests: `schemas/statements.rs`.

use super::Seen;
use crate::schemas::SchemaError;
use crate::schemas::limits;
use crate::schemas::statements::{check, migration, parse};

/// Statements that a call may consist of, and parts of it.
const DATA: [&str; 6] =
    ["SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "ExplainStmt"];
/// What a migration has nothing to do with: other roles, other databases, sessions, the server, code in
/// other languages.
const NEVER: [&str; 30] = [
    "AlterDatabaseStmt",
    "AlterDefaultPrivilegesStmt",
    "AlterEventTrigStmt",
    "AlterExtensionStmt",
    "AlterFdwStmt",
    "AlterOwnerStmt",
    "AlterRoleSetStmt",
    "AlterRoleStmt",
    "AlterSystemStmt",
    "CallStmt",
    "CopyStmt",
    "CreateEventTrigStmt",
    "CreateExtensionStmt",
    "CreatePLangStmt",
    "CreatePublicationStmt",
    "CreateRoleStmt",
    "CreateSchemaStmt",
    "CreateSubscriptionStmt",
    "CreatedbStmt",
    "DeclareCursorStmt",
    "DoStmt",
    "ExecuteStmt",
    "GrantRoleStmt",
    "GrantStmt",
    "ListenStmt",
    "LoadStmt",
    "NotifyStmt",
    "PrepareStmt",
    "TransactionStmt",
    "VariableSetStmt",
];

/// SQL, as a call and as a migration.
pub fn statement(data: &[u8]) -> Seen {
    let Ok(sql) = std::str::from_utf8(data) else { return Seen::Refused };
    let call = check(sql);
    if let Ok(checked) = &call
        && let Some(tree) = Tree::of(sql)
    {
        for kind in tree.statements() {
            assert!(DATA.contains(&kind), "{kind} in a call: {sql}");
            assert!(checked.writes || kind == "SelectStmt", "{kind} reads: {sql}");
        }
        assert!(!tree.has("IntoClause"), "SELECT … INTO: {sql}");
        assert_eq!(checked.parameters, tree.highest_parameter(), "{sql}");
    }
    let parts = migration(sql);
    if let Ok(parts) = &parts {
        assert!((1..=limits::MIGRATION_STATEMENTS).contains(&parts.len()));
        for part in parts {
            let tree = Tree::of(part).expect("it was looked at");
            let never = tree.statements().find(|kind| NEVER.contains(kind));
            assert_eq!(never, None, "in a migration: {part}");
        }
        // Taken apart, and put together again, it is the same.
        let together = parts.join("\n;\n");
        if together.len() <= limits::STATEMENT {
            match migration(&together) {
                Ok(again) => assert_eq!(&again, parts),
                Err(error) => panic!("{error}: {together}"),
            }
        }
    }
    for error in [call.as_ref().err(), parts.as_ref().err()].into_iter().flatten() {
        is_said(error, sql);
    }
    if call.is_ok() || parts.is_ok() { Seen::Accepted } else { Seen::Refused }
}

fn is_said(error: &SchemaError, sql: &str) {
    match error {
        SchemaError::Invalid(_) => {}
        SchemaError::Sql(said) => assert_eq!(said.code, "42601"),
        other => panic!("{other:?}: {sql}"),
    }
    let said = error.to_string();
    // Postgres names what it has stumbled over, which may be all of it.
    assert!(!said.is_empty() && said.len() <= 500 + 2 * sql.len(), "{said}");
}

/// What Postgres' parser makes of a text, in the notation of Rust's `Debug`, whose strings are emptied: all
/// of it, wherever a statement may hide. The checks rely on the parser's own summary instead.
struct Tree(String);

impl Tree {
    /// None where it is too deep to be read.
    fn of(sql: &str) -> Option<Tree> {
        let parsed = match parse(sql) {
            Ok(parsed) => parsed,
            Err(error) => {
                assert!(error.to_string().contains("nested too deeply"), "{error}: {sql}");
                return None;
            }
        };
        let notation = format!("{:?}", parsed.protobuf);
        let mut text = String::with_capacity(notation.len());
        let (mut quoted, mut escaped) = (false, false);
        for c in notation.chars() {
            match c {
                '"' if !escaped => quoted = !quoted,
                _ if quoted => escaped = c == '\\' && !escaped,
                _ => text.push(c),
            }
            escaped &= quoted;
        }
        Some(Tree(text))
    }

    /// Every word of it.
    fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
    }

    fn statements(&self) -> impl Iterator<Item = &str> {
        self.words().filter(|word| word.ends_with("Stmt") && *word != "RawStmt")
    }

    fn has(&self, word: &str) -> bool {
        self.words().any(|one| one == word)
    }

    fn highest_parameter(&self) -> usize {
        let after = self.0.split("ParamRef { number: ").skip(1);
        let numbers = after.map(|rest| rest.split(',').next().unwrap_or_default().parse());
        numbers.map(|number| number.expect("a number")).max().unwrap_or(0)
    }
}
