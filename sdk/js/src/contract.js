// Between the values that authors write and those of the contract: JSON, lengths of time, options.

import { invalid } from './errors.js';

/** JSON text of a value; undefined stays undefined. */
export function json(what, value) {
  if (value === undefined) return undefined;
  let text;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw invalid(`${what}: cannot be written as JSON: ${error.message}`, { cause: error });
  }
  if (text === undefined) {
    throw invalid(`${what}: cannot be written as JSON: it is a ${typeof value}`);
  }
  return text;
}

/** The value of JSON text that the platform handed out; undefined stays undefined. */
export const parse = (text) => (text === undefined ? undefined : JSON.parse(text));

const UNITS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Milliseconds as the contract has them, of a number of milliseconds or text such as `'30s'`. */
export function duration(what, value) {
  if (value === undefined) return undefined;
  let milliseconds = value;
  if (typeof value === 'string') {
    const parts = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(value.trim());
    milliseconds = parts ? Number(parts[1]) * UNITS[parts[2]] : NaN;
  }
  milliseconds = Math.round(Number(milliseconds));
  if (!(milliseconds >= 0 && milliseconds <= Number.MAX_SAFE_INTEGER)) {
    throw invalid(`${what}: ${show(value)} is no length of time: write milliseconds, or '30s', '5m', '2h', '7d'`);
  }
  return BigInt(milliseconds);
}

/** An integer that the contract has room for. */
export function integer(what, value, least, most) {
  if (value === undefined) return undefined;
  if (!Number.isInteger(value) || value < least || value > most) {
    throw invalid(`${what}: ${show(value)} is not an integer from ${least} to ${most}`);
  }
  return value;
}

/** Text; undefined stays undefined. */
export function text(what, value) {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw invalid(`${what}: ${show(value)} is not a text`);
  return value;
}

/** One of some words. */
export function word(what, value, words) {
  if (!words.includes(value)) throw invalid(`${what}: ${show(value)} is none of ${words.join(', ')}`);
  return value;
}

/** Refuses options that there are not: a mistyped one would silently do nothing. */
export function options(what, given, known) {
  if (given === undefined) return {};
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw invalid(`${what}: ${show(given)} is not an object of options`);
  }
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) {
      throw invalid(`${what}: there is no option ${show(name)}; there are ${known.join(', ')}`);
    }
  }
  return given;
}

/** A list. */
export function list(what, value) {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw invalid(`${what}: ${show(value)} is not a list`);
  return value;
}

/** A value as an author recognises it, cut short. */
export function show(value) {
  let shown;
  try {
    shown = JSON.stringify(value);
  } catch {
    // Falls through: a BigInt, or something circular.
  }
  shown ??= String(value);
  return shown.length > 80 ? `${shown.slice(0, 77)}…` : shown;
}

/** A number as long as it is exact, else the BigInt. */
export function exact(value) {
  if (value === undefined) return undefined;
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
