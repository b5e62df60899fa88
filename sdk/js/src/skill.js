// A skill: the author's function, and how the platform runs it.

import { show } from './contract.js';
import { EveError, Failure } from './errors.js';
import { described } from './log.js';
import { Outcome } from './outcome.js';
import { platform } from './platform.js';
import { Request } from './request.js';

/** Makes a function the skill that the component exports: `export default skill((request) => …)`. */
export function skill(run) {
  if (typeof run !== 'function') throw new TypeError('skill: give it the function that runs');
  return Object.freeze({ run });
}

/**
 * Runs a skill once, to an end of the contract: `{ tag: 'ok' | 'err', val }`.
 *
 * An exception that is nobody's failure is logged with its stack. It is worth another attempt, like any
 * crash, unless it is an error of the platform that says otherwise.
 */
export async function execute(author) {
  try {
    const run = typeof author === 'function' ? author : author?.run;
    if (typeof run !== 'function') {
      return permanently('the module has no skill: export default skill((request) => …)');
    }
    const outcome = await run(new Request());
    if (outcome instanceof Outcome) return { tag: 'ok', val: outcome.end };
    if (outcome instanceof Failure) return failed(outcome);
    return permanently(`the skill returned ${show(outcome)} instead of completed(…) or waiting()`);
  } catch (thrown) {
    return failed(thrown);
  }
}

const permanently = (message) => ({ tag: 'err', val: { tag: 'permanent', val: message } });

function failed(thrown) {
  if (thrown instanceof Failure) {
    if (thrown.cause instanceof Error) say(thrown);
    return { tag: 'err', val: { tag: thrown.kind, val: thrown.message } };
  }
  if (!(thrown instanceof Error)) {
    return { tag: 'err', val: { tag: 'retryable', val: `threw ${show(thrown)}` } };
  }
  say(thrown);
  const again = thrown instanceof EveError ? thrown.retryable : true;
  const message = `${thrown.name}: ${thrown.message}`;
  return { tag: 'err', val: { tag: again ? 'retryable' : 'permanent', val: message } };
}

const say = (error) => platform('log').log('error', described(error), []);
