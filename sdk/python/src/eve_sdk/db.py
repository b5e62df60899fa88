"""The organisation's own database: schemas in which skills keep state. Needs the capability `db`.

Unlike everything else that a run asks for, what is done here takes effect at once, whatever becomes of
the run: write statements that may be executed twice, such as `INSERT … ON CONFLICT DO NOTHING`.

Parameters and columns: None, bool, int, float, Decimal (numeric), str, bytes, UUID, aware datetime
(timestamptz), date, dict (jsonb; any other value as `Json(…)`), and lists of one of these. Of a column
`infinity` and other types arrive as str.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._contract import integer
from ._errors import call, invalid
from ._platform import platform
from ._values import Array, Json, from_contract, to_contract

__all__ = [
    "Array", "Column", "Json", "Migration", "Rows", "Schema", "Statement",
    "execute", "migrate", "query", "read_migrations", "schema", "transaction",
]


@dataclass(frozen=True)
class Column:
    """A column of an answer."""

    name: str
    #: The name of its type in Postgres, such as `int4`.
    type: str


class Rows(list[dict[str, Any]]):
    """Rows as dicts, which also know their columns and how many rows were affected."""

    columns: list[Column]
    affected: int


@dataclass(frozen=True)
class Statement:
    """A statement of a transaction."""

    sql: str
    parameters: Sequence[Any] = ()
    #: How many rows it must affect or return, else nothing is done: code `row_count`.
    expected_rows: int | None = None


@dataclass(frozen=True)
class Migration:
    """A step of a schema's history."""

    #: 1 and above; rising.
    number: int
    name: str
    sql: str


def _statement(what: str, sql: str, parameters: Sequence[Any], expected_rows: int | None) -> dict[str, Any]:
    if not isinstance(sql, str):
        raise invalid(f"{what}: the statement is not a str")
    if isinstance(parameters, (str, bytes)) or not isinstance(parameters, Sequence):
        raise invalid(f"{what}: parameters are a list, not {parameters!r:.80}")
    return {
        "sql": sql,
        "parameters": [to_contract(f"{what}: ${index}", one) for index, one in enumerate(parameters, 1)],
        "expected_rows": integer(f"{what}: expected_rows", expected_rows, 0, 2**63 - 1),
    }


def _rows(answer: Any) -> Rows:
    names = [column.name for column in answer.columns]
    rows = Rows(dict(zip(names, map(from_contract, row))) for row in answer.rows)
    rows.columns = [Column(column.name, column.type_name) for column in answer.columns]
    rows.affected = answer.affected
    return rows


def query(
    schema: str, sql: str, parameters: Sequence[Any] = (), *, expected_rows: int | None = None
) -> Rows:
    """Runs one statement with parameters `$1`, `$2`, …, and returns its rows as dicts."""
    statement = _statement("db.query", sql, parameters, expected_rows)
    return _rows(call(platform("db").query, schema, statement))


def execute(
    schema: str, sql: str, parameters: Sequence[Any] = (), *, expected_rows: int | None = None
) -> int:
    """Runs one statement, and returns how many rows it affected."""
    statement = _statement("db.execute", sql, parameters, expected_rows)
    return call(platform("db").execute, schema, statement)


def transaction(schema: str, statements: Iterable[str | Statement]) -> list[Rows]:
    """Runs 1 to 100 statements in one transaction: all of them, or none."""
    all = []
    for index, one in enumerate(statements):
        one = Statement(one) if isinstance(one, str) else one
        what = f"db.transaction: statement {index}"
        all.append(_statement(what, one.sql, one.parameters, one.expected_rows))
    return [_rows(answer) for answer in call(platform("db").transaction, schema, all)]


def migrate(schema: str, migrations: Iterable[Migration]) -> list[int]:
    """Applies those of the migrations that have not been applied, and returns their numbers.

    Once however many runs ask at the same time. What has been applied must still be there, unchanged.
    """
    all = []
    for one in migrations:
        integer("db.migrate: number", one.number, 1, 2**32 - 1)
        all.append({"number": one.number, "name": one.name, "sql": one.sql})
    return list(call(platform("db").migrate, schema, all))


def read_migrations(beside: str) -> list[Migration]:
    """The numbered files in the folder `migrations` beside a module: `db.read_migrations(__file__)`.

    They are named like `0001_what_it_does.sql`. Call it at the top of the module: there are files only
    while the component is built.
    """
    found = []
    for file in Path(beside).with_name("migrations").glob("*.sql"):
        parts = re.fullmatch(r"(\d+)_([A-Za-z0-9_-]+)\.sql", file.name)
        if not parts:
            raise invalid(f"{file}: migrations are named like 0001_what_it_does.sql")
        found.append(Migration(int(parts[1]), parts[2], file.read_text(encoding="utf-8")))
    if not found:
        raise invalid(f"there are no migrations beside {beside}")
    return sorted(found, key=lambda one: one.number)


@dataclass(frozen=True)
class Schema:
    """The same functions, for one schema."""

    name: str

    def query(self, sql: str, parameters: Sequence[Any] = (), *, expected_rows: int | None = None) -> Rows:
        """Runs one statement, and returns its rows as dicts."""
        return query(self.name, sql, parameters, expected_rows=expected_rows)

    def execute(self, sql: str, parameters: Sequence[Any] = (), *, expected_rows: int | None = None) -> int:
        """Runs one statement, and returns how many rows it affected."""
        return execute(self.name, sql, parameters, expected_rows=expected_rows)

    def transaction(self, statements: Iterable[str | Statement]) -> list[Rows]:
        """Runs statements in one transaction: all of them, or none."""
        return transaction(self.name, statements)

    def migrate(self, migrations: Iterable[Migration]) -> list[int]:
        """Applies those of the migrations that have not been applied, and returns their numbers."""
        return migrate(self.name, migrations)


def schema(name: str) -> Schema:
    """A schema by its logical name."""
    return Schema(name)
