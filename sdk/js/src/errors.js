// Why something did not do what was asked: errors of the SDK, of the platform, and the skill's own
// failures.

/** Why a call to the platform did not do what was asked. `code` is a word for programs. */
export class EveError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = 'EveError';
    this.code = code;
  }

  /** Whether the same call may succeed in another attempt. */
  get retryable() {
    return this.code === 'unavailable' || this.code === 'other';
  }
}

/** What Postgres said of a statement. */
export class SqlError extends EveError {
  constructor(said) {
    super('sql', `${said.message} (SQLSTATE ${said.code})`);
    this.name = 'SqlError';
    this.sqlState = said.code;
    this.detail = said.detail;
    this.hint = said.hint;
    this.constraint = said.constraint;
    this.position = said.position;
    this.statement = said.statement;
  }

  /** Serialization failures and deadlocks: the same statement may succeed the next time. */
  get retryable() {
    return this.sqlState === '40001' || this.sqlState === '40P01';
  }
}

/** How a run failed, in the skill's own judgement. */
export class Failure extends Error {
  constructor(kind, message, options) {
    super(String(message), options);
    this.name = 'Failure';
    this.kind = kind;
  }
}

/** Worth another attempt, if the request has any left: `throw retryable('…')`. */
export const retryable = (message, options) => new Failure('retryable', message, options);

/** Will not get better by trying again: `throw permanent('…')`. */
export const permanent = (message, options) => new Failure('permanent', message, options);

export const invalid = (message, options) => new EveError('invalid', message, options);

/** Calls the platform; what it throws becomes an `EveError`. */
export function call(act) {
  try {
    return act();
  } catch (thrown) {
    const error = thrown?.payload;
    if (typeof error?.tag !== 'string') throw thrown;
    if (error.tag === 'sql') throw new SqlError(error.val);
    throw new EveError(error.tag.replaceAll('-', '_'), error.val);
  }
}
