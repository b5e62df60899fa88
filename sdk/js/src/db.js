// The organisation's own database. Unlike everything else that a run asks for, what is done here takes
// effect at once, whatever becomes of the run.

import { exact, integer, list, options } from './contract.js';
import { call, invalid } from './errors.js';
import { platform } from './platform.js';
import { fromContract, toContract } from './values.js';

export { arrayOf, date, float, json, numeric, timestamp, uuid } from './values.js';

const db = () => platform('db');

function statement(what, sql, parameters, more) {
  if (typeof sql !== 'string') throw invalid(`${what}: the statement is not a text`);
  const { expectedRows } = options(what, more, ['expectedRows']);
  const expected = integer(`${what}: expectedRows`, expectedRows, 0, Number.MAX_SAFE_INTEGER);
  return {
    sql,
    parameters: list(`${what}: parameters`, parameters).map((value, index) =>
      toContract(`${what}: $${index + 1}`, value),
    ),
    expectedRows: expected === undefined ? undefined : BigInt(expected),
  };
}

/** A list of objects, one a row, which also knows its columns and how many rows were affected. */
function rowsOf({ columns, rows, affected }) {
  const found = rows.map((row) =>
    Object.fromEntries(row.map((value, index) => [columns[index].name, fromContract(value)])),
  );
  const about = { columns: columns.map(({ name, typeName }) => ({ name, type: typeName })), affected: exact(affected) };
  for (const [name, value] of Object.entries(about)) {
    Object.defineProperty(found, name, { value, enumerable: false });
  }
  return found;
}

/** Runs one statement, and returns its rows as objects. */
export function query(schema, sql, parameters, more) {
  const one = statement('db.query', sql, parameters, more);
  return rowsOf(call(() => db().query(schema, one)));
}

/** Runs one statement, and returns how many rows it affected. */
export function execute(schema, sql, parameters, more) {
  const one = statement('db.execute', sql, parameters, more);
  return exact(call(() => db().execute(schema, one)));
}

/** Runs statements in one transaction: all of them, or none. */
export function transaction(schema, statements) {
  const all = list('db.transaction', statements).map((given, index) => {
    const what = `db.transaction: statement ${index}`;
    if (typeof given === 'string') return statement(what, given);
    if (Array.isArray(given)) return statement(what, given[0], given[1], given[2]);
    const { sql, parameters, expectedRows } = options(what, given, ['sql', 'parameters', 'expectedRows']);
    return statement(what, sql, parameters, { expectedRows });
  });
  return call(() => db().transaction(schema, all)).map(rowsOf);
}

/** Applies those of the migrations that have not been applied, and returns their numbers. */
export function migrate(schema, migrations) {
  const all = list('db.migrate', migrations).map((given, index) => {
    const what = `db.migrate: migration ${index}`;
    const { number, name, sql } = options(what, given, ['number', 'name', 'sql']);
    if (typeof name !== 'string' || typeof sql !== 'string') throw invalid(`${what}: name and sql are texts`);
    return { number: integer(`${what}: number`, number ?? index + 1, 1, 2 ** 32 - 1), name, sql };
  });
  return Array.from(call(() => db().migrate(schema, all)));
}

/** The same functions, for one schema. */
export const schema = (name) => ({
  query: (sql, parameters, more) => query(name, sql, parameters, more),
  execute: (sql, parameters, more) => execute(name, sql, parameters, more),
  transaction: (statements) => transaction(name, statements),
  migrate: (migrations) => migrate(name, migrations),
});
