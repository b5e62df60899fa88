// How a run ends, when it does not fail.

import { duration, integer, json, options } from './contract.js';
import { invalid } from './errors.js';

/** How a run ended. Made by `completed` and `waiting`. */
export class Outcome {
  constructor(end) {
    this.end = end;
  }

  get isWaiting() {
    return this.end.tag === 'waiting';
  }
}

/** The request is done. */
export function completed(summary, more) {
  const { data, tokensUsed, cost } = options('completed', more, ['data', 'tokensUsed', 'cost']);
  if (typeof summary !== 'string') throw invalid('completed: the summary is not a text');
  if (cost !== undefined && !(Number.isFinite(cost) && cost >= 0)) {
    throw invalid(`completed: a cost of ${cost} dollars makes no sense`);
  }
  const tokens = integer('completed: tokensUsed', tokensUsed, 0, Number.MAX_SAFE_INTEGER);
  return new Outcome({
    tag: 'completed',
    val: {
      summary,
      data: json('completed: data', data),
      tokensUsed: tokens === undefined ? undefined : BigInt(tokens),
      cost,
    },
  });
}

/** The request waits for what it has started, and is run again when that happens. */
export function waiting(more) {
  const { deadline } = options('waiting', more, ['deadline']);
  return new Outcome({ tag: 'waiting', val: { deadline: duration('waiting: deadline', deadline) } });
}
