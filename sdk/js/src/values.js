// Values of columns and parameters: JavaScript's on one side, the contract's on the other.

import { exact, json as written, show } from './contract.js';
import { invalid } from './errors.js';

/** A parameter that says which type of the contract it is. */
export class Typed {
  constructor(tag, val) {
    this.tag = tag;
    this.val = val;
  }
}

const LEAST = -(2n ** 63n);
const MOST = 2n ** 63n - 1n;
// Case of the contract's `array`, by the case of its elements.
const ARRAYS = {
  boolean: 'booleans', integer: 'integers', float: 'floats', numeric: 'numerics', text: 'texts',
  bytes: 'bytes', json: 'jsons', uuid: 'uuids', timestamp: 'timestamps', date: 'dates',
};

const of = (tag, val) => ({ tag, val });

/** A parameter of the contract. */
export function toContract(what, value) {
  if (value === null || value === undefined) return { tag: 'null' };
  if (value instanceof Typed) return of(value.tag, value.val);
  switch (typeof value) {
    case 'boolean':
      return of('boolean', value);
    case 'number':
      return Number.isSafeInteger(value) && !Object.is(value, -0)
        ? of('integer', BigInt(value))
        : of('float', value);
    case 'bigint':
      return value >= LEAST && value <= MOST ? of('integer', value) : of('numeric', String(value));
    case 'string':
      return of('text', value);
    case 'object':
      break;
    default:
      throw invalid(`${what}: a ${typeof value} is no value of a database`);
  }
  if (value instanceof Uint8Array) return of('bytes', value);
  if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) throw invalid(`${what}: an invalid date`);
    return of('timestamp', rfc3339(value));
  }
  if (Array.isArray(value)) return of('array', array(what, value));
  return of('json', written(what, value));
}

// Date's own text writes years past 9999 with a sign, which RFC 3339 does not have.
function rfc3339(date) {
  const year = date.getUTCFullYear();
  if (year < 1 || year > 9999) throw invalid(`years from 1 to 9999 can be written, not ${year}`);
  return date.toISOString();
}

/** An array of one dimension: its elements decide of what. Of none it is one of texts. */
function array(what, values, tag) {
  const elements = values.map((value, index) => toContract(`${what}[${index}]`, value));
  const present = elements.filter((element) => element.tag !== 'null');
  const tags = new Set(tag ? [tag] : present.map((element) => element.tag));
  // 1 and 1.5 are both numbers to whoever wrote them.
  const numbers = [...tags].every((one) => one === 'integer' || one === 'float');
  const kind = tags.size > 1 && numbers ? 'float' : ([...tags][0] ?? 'text');
  if ((tags.size > 1 && !numbers) || !ARRAYS[kind]) {
    throw invalid(`${what}: an array has elements of one type, none of them an array, not ${[...tags].join(' and ')}; for JSON use db.json(…)`);
  }
  const vals = elements.map((element) => {
    if (element.tag === 'null') return undefined;
    if (element.tag === kind) return element.val;
    if (element.tag === 'integer' && kind === 'float') return Number(element.val);
    if (element.tag === 'integer' && kind === 'numeric') return String(element.val);
    if (element.tag === 'float' && kind === 'numeric') return String(element.val);
    // Text for what is text in the contract: uuids, dates.
    if (element.tag === 'text' && ['numeric', 'uuid', 'timestamp', 'date'].includes(kind)) return element.val;
    throw invalid(`${what}: ${show(element.val)} is no ${kind}`);
  });
  return { tag: ARRAYS[kind], val: vals };
}

const typed = (tag) => (value) => new Typed(tag, String(value));

/** jsonb, of any value: an array or a text too. */
export const json = (value) => new Typed('json', written('db.json', value ?? null));
/** numeric, of decimal text. */
export const numeric = typed('numeric');
/** uuid. */
export const uuid = typed('uuid');
/** date, of text such as `2026-11-24`. */
export const date = typed('date');
/** timestamptz, of RFC 3339 text: with microseconds, which a `Date` does not have. */
export const timestamp = typed('timestamp');
/** double precision, of a number that happens to be whole. */
export const float = (value) => new Typed('float', Number(value));
/** An array of the named type: what an empty one, or one of nulls, cannot say itself. */
export function arrayOf(type, values) {
  if (!ARRAYS[type]) throw invalid(`db.arrayOf: ${show(type)} is none of ${Object.keys(ARRAYS).join(', ')}`);
  const { tag, val } = array('db.arrayOf', values, type);
  return new Typed('array', { tag, val });
}

/** A value of a column, as JavaScript has it. */
export function fromContract(value) {
  switch (value.tag) {
    case 'null':
      return null;
    case 'integer':
      return exact(value.val);
    case 'json':
      return JSON.parse(value.val);
    case 'timestamp':
      return moment(value.val);
    case 'array':
      return elements(value.val);
    case 'other':
      return value.val.text;
    default:
      return value.val;
  }
}

// `infinity`, and years that a Date has no room for, stay text.
function moment(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? text : date;
}

const ELEMENTS = {
  integers: exact,
  jsons: JSON.parse,
  timestamps: moment,
};

function elements({ tag, val }) {
  const convert = ELEMENTS[tag] ?? ((value) => value);
  return Array.from(val, (value) => (value === undefined || value === null ? null : convert(value)));
}
