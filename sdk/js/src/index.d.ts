/** What the author of a skill for Eve Horizon imports. */
/// <reference path="./files.d.ts" />

/** A value that JSON can hold. */
export type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
/** The id of a request: a UUID as text. */
export type RequestId = string;
/** Milliseconds, or text such as `'30s'`, `'5m'`, `'2h'`, `'7d'`. */
export type Duration = number | `${number}${'ms' | 's' | 'm' | 'h' | 'd'}`;
/** Where a request stands. */
export type Status =
  | 'scheduled' | 'blocked' | 'pending' | 'claimed' | 'processing' | 'waiting'
  | EndStatus;
/** How a request ended. */
export type EndStatus = 'completed' | 'failed' | 'cancelled';
/** What becomes of a dependent when the request it waits for fails or is cancelled. */
export type OnFailure = 'cancel' | 'run' | 'hold';

/** Why a run takes place. */
export type Trigger =
  /** The request's first run, or another attempt at it. */
  | { type: 'initial' }
  /** A child that replies to this orchestrator ended. */
  | { type: 'child_complete'; requestId: RequestId; status: EndStatus }
  /** A person answered, or the question expired. */
  | { type: 'hitl_response'; questionId: string; expired: boolean; response?: any; answeredBy?: string }
  /**
   * A deployment that this orchestrator asked for settled: `running`, `failed` for a reason in a word, or
   * `stopped`. `request.rawContext` has the same with `message`, a sentence, `env`, `app` and `revision`.
   */
  | { type: 'deployment_settled'; deploymentId: string; status: string; reason?: string }
  /** A timer that this orchestrator had set went off. */
  | { type: 'timer'; name: string }
  /** A schedule created this request. */
  | { type: 'cron'; name: string }
  /** Something that this version does not know. */
  | { type: 'other'; name: string };

/** What this run was asked to do. Every getter asks the platform. */
export interface Request<Context = any> {
  readonly id: RequestId;
  /** Which attempt this is: 1 for the first. */
  readonly attempt: number;
  /** What was asked for, in words; may be empty. */
  readonly prompt: string;
  /** What was asked for; `{}` if nothing was given. The same in every run of the request. */
  readonly context: Context;
  /** The context as the platform delivers it: in a wake-up an object that says what happened. */
  readonly rawContext: any;
  readonly repoUrl?: string;
  readonly branch?: string;
  /** The request's settings. */
  readonly config: any;
  /** The request's labels. */
  readonly metadata: any;
  /** Why this run takes place. */
  readonly trigger: Trigger;
  /** Other events that came in meanwhile, oldest first. */
  readonly additionalTriggers: Trigger[];
  /** `trigger`, then `additionalTriggers`. Every event is delivered once. */
  readonly triggers: Trigger[];
  readonly parentId?: RequestId;
  readonly workerType: string;
  /** For display: it grants nothing. */
  readonly orgSlug: string;
  /** For display: it grants nothing. */
  readonly userId?: string;
  /** When the run is stopped if it has not ended by itself. */
  readonly deadline: Date;
}

/** How a run ended. Made by `completed` and `waiting`. */
export interface Outcome {
  readonly isWaiting: boolean;
}
/** The request is done. `summary` is a line or a short text for people, `data` is for programs. */
export function completed(summary: string, more?: { data?: unknown; tokensUsed?: number; cost?: number }): Outcome;
/** The request waits for what it has started. It fails if nothing wakes it for `deadline`; 7 days. */
export function waiting(more?: { deadline?: Duration }): Outcome;

/** How a run failed, in the skill's own judgement. Nothing that the run asked for happens. */
export class Failure extends Error {
  readonly kind: 'retryable' | 'permanent';
}
/** Worth another attempt, if the request has any left: `throw retryable('…')`. */
export function retryable(message: string, options?: { cause?: unknown }): Failure;
/** Will not get better by trying again: `throw permanent('…')`. */
export function permanent(message: string, options?: { cause?: unknown }): Failure;

/** A skill: what a module exports as its default. */
export interface Skill<Context = any> {
  readonly run: (request: Request<Context>) => Outcome | Failure | Promise<Outcome | Failure>;
}
/** Makes a function the skill that the component exports. */
export function skill<Context = any>(run: Skill<Context>['run']): Skill<Context>;

export type ErrorCode =
  | 'invalid' | 'not_found' | 'conflict' | 'limit' | 'denied' | 'unavailable' | 'other'
  | 'sql' | 'row_count' | 'migration';

/** Why a call to the platform did not do what was asked. */
export class EveError extends Error {
  constructor(code: ErrorCode, message: string, options?: { cause?: unknown });
  readonly code: ErrorCode;
  /** Whether the same call may succeed in another attempt. */
  readonly retryable: boolean;
}
/** What Postgres said of a statement. */
export class SqlError extends EveError {
  constructor(said: {
    code: string; message: string; detail?: string; hint?: string; constraint?: string; position?: number; statement?: number;
  });
  /** Such as `23505`: see Postgres' appendix A. */
  readonly sqlState: string;
  readonly detail?: string;
  readonly hint?: string;
  readonly constraint?: string;
  readonly position?: number;
  /** Which statement of a transaction or migration, from 0. */
  readonly statement: number;
}

/** Lines for people. A run keeps at most 1,000 lines and 256 KiB. */
export namespace log {
  type Fields = Record<string, unknown>;
  function trace(message: unknown, fields?: Fields): void;
  function debug(message: unknown, fields?: Fields): void;
  function info(message: unknown, fields?: Fields): void;
  function warn(message: unknown, fields?: Fields): void;
  /** A line at level error; of an `Error` it has the stack. */
  function error(message: unknown, fields?: Fields): void;
}

/**
 * Requests of the same organisation. What is asked for is committed together with the run's outcome:
 * all of it or, when the run fails or is lost, none of it. Needs the capability `queue`.
 */
export namespace queue {
  interface NewRequest {
    /** The pool that runs it, such as `general`. */
    workerType: string;
    /** The skill to run; the worker type's default when absent. */
    skill?: string;
    /** What is wanted, in words; at most 256 KiB. */
    prompt?: string;
    /** What is wanted, for programs; at most 1 MiB of JSON. */
    context?: object;
    repoUrl?: string;
    branch?: string;
    /** Settings; at most 64 KiB of JSON. */
    config?: object;
    /** Labels; at most 64 KiB of JSON. */
    metadata?: object;
    /** Requests that must end first: ids or, in a batch, places of earlier entries. */
    blockedBy?: (RequestId | number | { id: RequestId | number; onFailure?: OnFailure })[];
    /** For those of `blockedBy` that do not say; `cancel` when absent. */
    onFailure?: OnFailure;
    /** Wakes this run's orchestrator when the new request ends. */
    replyToMe?: boolean;
    /** Lets the new request go on when this run's orchestrator completes. */
    detached?: boolean;
    /** Earliest start, counted from the commit of this run. */
    delay?: Duration;
    /** -100 to 100, lower first; 0 when absent. */
    priority?: number;
    /** 1 to 25; 3 when absent. */
    maxAttempts?: number;
    /** Wall-clock limit of a run. */
    timeout?: Duration;
    /** The same key twice creates one request. */
    idempotencyKey?: string;
  }
  interface Info {
    id: RequestId;
    workerType: string;
    skill?: string;
    status: Status;
    prompt: string;
    context: any;
    metadata: any;
    attempt: number;
    createdAt: Date;
  }
  interface Ended {
    requestId: RequestId;
    status: EndStatus;
    summary: string;
    /** The data that it completed with. */
    output?: any;
    tokensUsed?: number | bigint;
    cost?: number;
    /** Present when it failed or was cancelled. */
    problem?: { code: string; message: string };
    finishedAt: Date;
  }
  interface Child extends Info {
    isOpen: boolean;
    ended?: Ended;
    /** The data that it completed with. */
    output?: any;
  }
  interface Blocking {
    id: RequestId;
    status: Status;
    onFailure: OnFailure;
    isOpen: boolean;
  }

  /** Creates a request, and returns its id. */
  function create(request: NewRequest): RequestId;
  /** Creates all of the requests or none, and returns their ids in the same order. */
  function createMany(requests: NewRequest[]): RequestId[];
  /** A request of this organisation. */
  function get(id: RequestId): Info;
  /** What a request ended with; undefined while it is open. */
  function result(id: RequestId): Ended | undefined;
  /** Requests of this organisation, newest first. Everything that is asked for must hold. */
  function list(filter?: {
    /** What the context must contain. */
    context?: object;
    statuses?: Status[];
    workerType?: string;
    /** 1 to 100; 20 when absent. */
    limit?: number;
    /** Only older than this one. */
    before?: RequestId;
  }): Info[];
  /** The requests that this one, or the given one, created, oldest first. */
  function children(of?: RequestId): Child[];
  /** What this request, or the given one, waits for or has waited for. */
  function blockers(of?: RequestId): Blocking[];
  /** Cancels an open request, and by the policies of their edges its dependents. */
  function cancel(id: RequestId, reason?: string): void;
  /** Puts a question to the people of the organisation; the answer is a trigger `hitl_response`. */
  function ask(question: string, more?: { options?: string[]; details?: object; expiresIn?: Duration }): string;
  /** Wakes this request with the trigger `timer` of this name, once: a second to 365 days from now. */
  function wakeAfter(delay: Duration, name: string): void;
}

/**
 * The organisation's own database: schemas in which skills keep state. What is done here takes effect at
 * once, whatever becomes of the run: write statements that may be executed twice. Needs the
 * capability `db`.
 */
export namespace db {
  class Typed { private constructor(); }
  /**
   * A parameter. Whole numbers are integers, others floats; a Date is a timestamptz, a Uint8Array bytea,
   * another object jsonb, an array an array of what its elements are.
   */
  type Value =
    | null | undefined | boolean | number | bigint | string | Uint8Array | Date | Typed
    | Value[] | { [name: string]: unknown };
  /**
   * Columns by name: null, boolean, number (bigint past 2^53), string, Uint8Array, Date (text if infinite),
   * parsed JSON, arrays of these. numeric, uuid and date are text.
   */
  type Row = Record<string, any>;
  interface Rows<R = Row> extends Array<R> {
    readonly columns: { name: string; type: string }[];
    readonly affected: number;
  }
  interface Options {
    /** How many rows it must affect or return, else nothing of the call is done: code `row_count`. */
    expectedRows?: number;
  }
  type Statement = string | [sql: string, parameters?: Value[], options?: Options] | ({ sql: string; parameters?: Value[] } & Options);
  interface Migration {
    /** Its place in the list, from 1, when absent. */
    number?: number;
    name: string;
    sql: string;
  }
  interface Schema {
    query<R = Row>(sql: string, parameters?: Value[], options?: Options): Rows<R>;
    execute(sql: string, parameters?: Value[], options?: Options): number;
    transaction(statements: Statement[]): Rows[];
    migrate(migrations: Migration[]): number[];
  }

  /** Runs one statement, and returns its rows: `query('notes', 'SELECT … WHERE id = $1', [7])`. */
  function query<R = Row>(schema: string, sql: string, parameters?: Value[], options?: Options): Rows<R>;
  /** Runs one statement, and returns how many rows it affected. */
  function execute(schema: string, sql: string, parameters?: Value[], options?: Options): number;
  /** Runs statements in one transaction: all of them, or none. */
  function transaction(schema: string, statements: Statement[]): Rows[];
  /** Applies those of the migrations that have not been applied, and returns their numbers. */
  function migrate(schema: string, migrations: Migration[]): number[];
  /** The same functions, for one schema. */
  function schema(name: string): Schema;

  /** jsonb, of any value: an array or a text too. */
  function json(value: unknown): Typed;
  /** numeric, of decimal text. */
  function numeric(text: string | number | bigint): Typed;
  function uuid(text: string): Typed;
  /** date, of text such as `2026-11-24`. */
  function date(text: string): Typed;
  /** timestamptz, of RFC 3339 text. */
  function timestamp(text: string): Typed;
  /** double precision, of a number that happens to be whole. */
  function float(value: number): Typed;
  /** An array of a type: what an empty one, or one of nulls, cannot say itself. */
  function arrayOf(
    type: 'boolean' | 'integer' | 'float' | 'numeric' | 'text' | 'bytes' | 'json' | 'uuid' | 'timestamp' | 'date',
    values: Value[],
  ): Typed;
}

/**
 * Apps of the organisation, in its own environments. What is asked for is checked at once and committed
 * together with the run's outcome; then the platform makes it so, which takes a while and can fail: return
 * `waiting()`, and the trigger `deployment_settled` says how it ended. The last change that a run asks for of
 * a deployment is the one that it is woken for; at most 100 changes in one run. Needs the capability `deploy`.
 *
 * Between the call and the platform's doing it the world may change. What cannot be done any more settles as
 * `failed`, and its reason is `not_found`, `forbidden`, `conflict` or `invalid`; `rejected` or `not_approved`
 * where a person was asked; `superseded` where somebody else changed the deployment before this change was
 * there. Else the reason is what became of it: `image_pull`, `crash_loop`, `not_ready`, `quota`,
 * `admission`, … The id is the one that the run was told, even if somebody else deployed the app first.
 */
export namespace deploy {
  /**
   * Where a deployment stands; the last three are where it comes to rest.
   *
   * - `pending`: it was asked for; the cluster has not taken it yet. What waits for an approval does not show
   *   until it is approved.
   * - `deploying`: the cluster has taken it; not all of it is there or, with the reason `stopping`, not all of
   *   it is gone yet.
   * - `running`: as many replicas as there shall be are ready, of the latest revision and no other.
   * - `failed`: it is not there, and its time is over, or there is no use in waiting.
   * - `stopped`: nothing of it is there.
   */
  type State = 'pending' | 'deploying' | 'running' | 'failed' | 'stopped';
  /** A place to deploy to. */
  interface Environment {
    name: string;
    /** What is asked for before it is ready waits. */
    status: 'provisioning' | 'ready' | 'failed' | 'deleting';
    /** Why it is not ready. */
    message?: string;
    /** Whether skills of this run's worker type may deploy to it. */
    allowed: boolean;
    /** Whether a person is asked before what a skill asks for is done. */
    approval: boolean;
  }
  /** How an app is to run, by the names that the HTTP API has: those listed here, and what is added later. */
  interface Settings {
    /** The port that the app listens on; 8080 at first. */
    port?: number;
    /** A path that answers 200 once the app can take traffic. */
    health_path?: string;
    /** CPU of each pod: `250m`, `2`. */
    cpu?: string;
    /** Memory of each pod: `256Mi`, `1Gi`. */
    memory?: string;
    /** What to run instead of the image's own entry point. */
    command?: string[];
    /** A number of replicas that follows the load, 1 to 100. */
    autoscale?: { min: number; max: number; cpu_percent?: number };
    /** The user that the app runs as. */
    run_as_user?: number;
    /** How long a change may take before it has failed: 5 to 3600 seconds; 600 at first. */
    deadline_s?: number;
    [name: string]: unknown;
  }
  interface NewDeployment {
    /** The environment's name. */
    env: string;
    /** The app: a DNS label of at most 50 characters that begins with a letter. */
    app: string;
    /** Registers the app if the organisation has none of that name; else that is `not_found`. */
    register?: boolean;
    /** `[registry/]repository[:tag][@digest]`, at most 512 characters. */
    image: string;
    /** 0 to 1,000. As many as there are when absent; 1 at first. */
    replicas?: number;
    /**
     * Environment variables by name, all of them: those of before are forgotten. As they are when absent. At
     * most 500 of 512 KiB together. Secrets do not belong here.
     */
    envVars?: { [name: string]: string };
    /** What is not named stays as it is; at most 64 KiB of JSON. */
    settings?: Settings;
  }
  interface Pod {
    name: string;
    /** `Pending`, `Running`, `Succeeded`, `Failed`, or why a container waits: `CrashLoopBackOff`. */
    status: string;
    /** Whether it takes traffic. */
    ready: boolean;
    /** How often its containers have been started again. */
    restarts: number;
    /** The version that it runs. */
    version: string;
  }
  /** A deployment: an app in an environment. */
  interface Deployment {
    /** What the trigger `deployment_settled` names. */
    id: string;
    app: string;
    env: string;
    state: State;
    /** Whether it has come to rest: `running`, `failed` or `stopped`. */
    isSettled: boolean;
    image: string;
    /** The image's tag. */
    version: string;
    /** The latest revision, from 1; 0 if the first is this run's own and not committed yet. */
    revision: number;
    /** How many there shall be, and how many of the latest revision are ready. */
    replicas: { desired: number; ready: number };
    /** At most 100, those that are not ready first; of `status` only. */
    pods: Pod[];
    /** Why it stands there, in a word: `image_pull`, `crash_loop`, `not_ready`, `quota`, `admission`, … */
    reason?: string;
    /** The same in a sentence. */
    message?: string;
    /** Its settings, and the names of its environment variables. */
    config: Settings & { variables: string[] };
    updatedAt: Date;
  }
  /** A change that was asked for, and what became of it. */
  interface Revision {
    /** From 1. */
    revision: number;
    kind: 'created' | 'updated' | 'scaled' | 'rolled_back';
    image: string;
    version: string;
    replicas: number;
    /** Undefined while it is under way. */
    outcome?: 'running' | 'failed' | 'superseded' | 'stopped';
    /** Why it failed, in a word. */
    reason?: string;
    /** The same in a sentence. */
    message?: string;
    createdAt: Date;
    settledAt?: Date;
  }
  /** A line that a pod has written. */
  interface LogLine {
    /** The pod's name. */
    pod: string;
    /** At most 16 KiB of it. */
    line: string;
  }
  /** What to go back to; the last revision that ran before the present one when nothing is named. */
  type Target =
    /** The latest revision that ran with this version: an image's tag. */
    | { version: string; revision?: never }
    /** This revision, which must have run. */
    | { revision: number; version?: never };

  /** The organisation's environments, by name. */
  function environments(): Environment[];
  /** Deploys an app, or something else of it in place of what is there, and returns the deployment's id. */
  function create(deployment: NewDeployment): string;
  /** Gives a deployment another number of replicas, 0 to 1,000, and returns its id. */
  function scale(env: string, app: string, replicas: number): string;
  /** Goes back to what once ran, its image and its configuration, and returns the deployment's id. */
  function rollback(env: string, app: string, to?: Target): string;
  /** How a deployment stands. What this run has asked for shows as `pending`. */
  function status(env: string, app: string): Deployment;
  /**
   * The organisation's deployments, or those of one environment, by environment and app; without those that
   * are stopped. At most 1,000.
   */
  function list(env?: string): Deployment[];
  /**
   * A deployment's revisions, latest first: 1 to 100 of them, 20 when absent. Not those that this run has
   * asked for: they have no numbers yet.
   */
  function history(env: string, app: string, more?: { limit?: number }): Revision[];
  /**
   * The last lines of each of a deployment's pods: 1 to 1,000 of them, 100 when absent; the newest pods
   * first, at most 20 pods and 1 MiB. The cluster is asked, which takes a moment: `unavailable` if it does not
   * answer within 30 seconds.
   */
  function logs(env: string, app: string, more?: { tail?: number }): LogLine[];
  /**
   * Reads the Kubernetes API for what there is no function for, in the environment's own namespace, with the
   * rights of a viewer: no Secrets, nothing of others. `path` is as the API has it without the namespace:
   * `api/v1/pods`, `apis/apps/v1/replicasets?labelSelector=…`, `api/v1/configmaps/NAME`. The answer is the
   * API's, parsed, at most 1 MiB of JSON; asked like `logs`.
   */
  function kubernetes(env: string, path: string): any;
}
// Of its own: where one name is exported by hand, no other is by itself.
export namespace deploy {
  /** Takes everything of a deployment out of its environment, and returns its id. Its history stays. */
  function remove(env: string, app: string): string;
  export { remove as delete };
}
