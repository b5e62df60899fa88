// Lines for people, kept with the run and shown by `eve request logs`.

import { platform } from './platform.js';

/** A value as a line shows it. Never fails: a log line must not end a run. */
export function shown(value) {
  if (typeof value === 'string') return value;
  if (value instanceof Error) return described(value);
  if (typeof value === 'object' && value !== null) {
    try {
      return JSON.stringify(value) ?? String(value);
    } catch {
      return Object.prototype.toString.call(value);
    }
  }
  return String(value);
}

/** An error with its stack, and its causes. */
export function described(error) {
  const head = `${error.name}: ${error.message}`;
  // Node's stacks begin with the message, SpiderMonkey's do not.
  const stack = typeof error.stack === 'string' ? error.stack.trimEnd() : '';
  const text = stack.startsWith(head) || !stack ? stack || head : `${head}\n${stack}`;
  return error.cause instanceof Error ? `${text}\ncaused by ${described(error.cause)}` : text;
}

function write(level, message, fields = {}) {
  const pairs = Object.entries(fields).map(([name, value]) => [name, shown(value)]);
  platform('log').log(level, shown(message), pairs);
}

export const trace = (message, fields) => write('trace', message, fields);
export const debug = (message, fields) => write('debug', message, fields);
export const info = (message, fields) => write('info', message, fields);
export const warn = (message, fields) => write('warn', message, fields);
export const error = (message, fields) => write('error', message, fields);
