// What the author of a skill imports. A skill is one function: it gets a request, and returns
// `completed(…)` or `waiting()`, or throws; between the two it may write log lines, look at and create
// other requests, keep state in a database, and deploy apps.

export { EveError, Failure, SqlError, permanent, retryable } from './errors.js';
export { completed, waiting } from './outcome.js';
export { skill } from './skill.js';
export * as db from './db.js';
export * as deploy from './deploy.js';
export * as log from './log.js';
export * as queue from './queue.js';
