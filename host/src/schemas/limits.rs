//! Every limit of what is asked of a schema, once, with its reason.

use std::time::Duration;

/// One statement, in bytes: a thousand rows of VALUES fit.
pub const STATEMENT: usize = 256 << 10;
/// Parameters of a statement. The protocol's own limit is 65,535, at which planning takes seconds.
pub const PARAMETERS: usize = 1_000;
/// Statements of one transaction: each is a round trip during which locks are held.
pub const STATEMENTS: usize = 100;
/// Rows of an answer.
pub const ROWS: usize = 10_000;
/// Bytes of an answer, as its values take them.
pub const ANSWER: usize = 8 << 20;
/// Bytes that the server may send in the course of a call, before any of it is looked at: an answer
/// with its framing, and what the protocol says besides. One row can have a gigabyte.
pub const WIRE: u64 = 24 << 20;
/// Memory that an answer may take once it is decoded: a value of no bytes takes some, too.
pub const DECODED: usize = 32 << 20;
/// How long a call may take.
pub const CALL: Duration = Duration::from_secs(30);
/// How long a cancelled statement may go on before its session is terminated.
pub const CANCEL: Duration = Duration::from_secs(1);
/// How long connecting may take.
pub const CONNECT: Duration = Duration::from_secs(10);
/// Statements of one migration: each relation takes a lock that counts in the server's shared table.
pub const MIGRATION_STATEMENTS: usize = 200;
/// Migrations of one call.
pub const MIGRATIONS: usize = 1_000;
/// Columns, constraints and changes of one statement of a migration: each may be an object with a lock.
pub const ELEMENTS: usize = 300;
/// Relations (tables, indexes, sequences, views, types of rows) that a schema may have. A transaction
/// that touches all of them must not fill the server's lock table, which everybody shares: 64 locks
/// for each of 100 connections, by default.
pub const RELATIONS: i64 = 500;
/// Everything that a schema may hold: relations, defaults, constraints, functions, types. Dropping it
/// locks them all.
pub const OBJECTS: i64 = 2_000;
/// Sessions in one organisation's database at one time, of all its roles.
pub const DATABASE_CONNECTIONS: u32 = 60;
/// How long making one schema may take.
pub const MAKING: Duration = Duration::from_secs(60);
/// How long a session that will not end is waited for, its place taken meanwhile.
pub const STUBBORN: Duration = Duration::from_secs(3600);
/// Sessions of one role at one time, its cancelling ones and people's shells included.
pub const ROLE_CONNECTIONS: u32 = 20;
/// Temporary files of one session.
pub const TEMP_FILES: &str = "256MB";
