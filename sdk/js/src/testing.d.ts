/** A fake platform, so that `node --test` runs a skill's logic natively, without WebAssembly. */

import type { Duration, EndStatus, OnFailure, RequestId, Skill, Status, Trigger, deploy, queue } from './index.js';

/** A request besides the one that runs, as the test wants it to stand. */
export interface Other {
  id?: RequestId;
  /** Found from `output` and `problem` when absent; `pending` without either. */
  status?: Status;
  workerType?: string;
  skill?: string;
  prompt?: string;
  context?: object;
  metadata?: object;
  summary?: string;
  output?: unknown;
  problem?: { code: string; message: string };
  replyToMe?: boolean;
}

/** An app that is deployed already. Its environment and its app are then there as well. */
export interface Deployed {
  id?: string;
  env: string;
  app: string;
  image: string;
  /** Images that ran before, oldest first. */
  before?: string[];
  /** 1 when absent. */
  replicas?: number;
  /** `running` when absent. */
  state?: deploy.State;
  envVars?: { [name: string]: string };
  settings?: deploy.Settings;
  reason?: string;
  message?: string;
  /** An earlier run of the request asked for what is under way, and it is woken when that settles. */
  askedFor?: boolean;
  /** What its pods have written, the newest pod first; a text is a line of the pod `APP-0`. */
  logs?: (string | deploy.LogLine)[];
}

export interface Asked {
  prompt?: string;
  context?: object;
  config?: object;
  metadata?: object;
  repoUrl?: string;
  branch?: string;
  attempt?: number;
  /** Why the first run takes place; `initial` when absent. */
  trigger?: Trigger;
  additionalTriggers?: Trigger[];
  parentId?: RequestId;
  workerType?: string;
  /** Requests that an earlier run created. */
  children?: Other[];
  /** Other requests of the organisation. */
  others?: Other[];
  /**
   * Environments of the organisation, ready and allowed unless they say otherwise. Where a person is asked,
   * what a run wants counts as approved until it settles as something else.
   */
  environments?: (string | (Partial<deploy.Environment> & { name: string }))[];
  /** Registered apps. */
  apps?: string[];
  deployments?: Deployed[];
  /** What the Kubernetes API answers, by environment and path: `{ prod: { 'api/v1/pods': { items: [] } } }`. */
  kubernetes?: { [env: string]: { [path: string]: object } };
  /** Environments whose clusters do not answer: `logs` and `kubernetes` are `unavailable` there. */
  unreachable?: string[];
  /** Answers statements: with rows as objects, or with how many rows were affected. */
  db?: (call: { schema: string; sql: string; parameters: any[] }) => object[] | number | undefined;
}

/** A request. A run that waits is run again by the same host, with what has happened meanwhile. */
export class Host {
  constructor(asked?: Asked);
  readonly id: RequestId;
  /** Adds a request that is there already, and returns its id. */
  add(other: Other): RequestId;
  statusOf(id: RequestId): Status;
  /** A request completes with this data. */
  complete(id: RequestId, data?: unknown, summary?: string): this;
  fail(id: RequestId, message?: string, code?: string): this;
  cancel(id: RequestId, message?: string): this;
  /** A person answers a question. */
  answer(questionId: string, response: unknown, answeredBy?: string): this;
  /** Nobody answers a question in time. */
  expire(questionId: string): this;
  /** A timer goes off. */
  fire(name: string): this;
  /** Where a deployment stands. */
  stateOf(deploymentId: string): deploy.State;
  /**
   * A deployment that is under way comes to rest, and wakes the request if that has asked for it. `reason` is
   * why it failed, in a word; `message` the same in a sentence. Of what was refused after all (`not_found`,
   * `forbidden`, `conflict`, `invalid`, `rejected`, `not_approved`) nothing stays; after `superseded` what
   * somebody else has asked for is on its way.
   */
  settle(deploymentId: string, status: 'running' | 'failed' | 'stopped', reason?: string, message?: string): this;
  /** What the pods of a deployment have written by now, in place of what they had. */
  logs(deploymentId: string, lines: (string | deploy.LogLine)[]): this;
  /** What the Kubernetes API answers from now on; other paths are `not_found`. */
  kubernetes(env: string, path: string, answer: object): this;
  /** Runs the skill once, for everything that has happened since its last run. */
  run(skill: Skill): Promise<Run>;
}

export interface Created extends Omit<queue.NewRequest, 'blockedBy' | 'delay' | 'timeout'> {
  id: RequestId;
  context: any;
  config: any;
  metadata: any;
  blockedBy: { id: RequestId; onFailure: OnFailure }[];
  delay?: number;
  timeout?: number;
}

/** A change of a deployment that a run asked for, with what the skill said. */
export type Change = { id: string; env: string; app: string } & (
  | {
      kind: 'create';
      register: boolean;
      image: string;
      replicas?: number;
      envVars?: { [name: string]: string };
      settings?: any;
    }
  | { kind: 'scale'; replicas: number }
  | { kind: 'rollback'; version?: string; revision?: number }
  | { kind: 'delete' }
);

/** What a run came to. What it asked for is empty if it failed: nothing of that happens. */
export class Run {
  private constructor();
  readonly status: 'completed' | 'waiting' | 'failed';
  readonly isWaiting: boolean;
  /** The platform's word for how it failed: `failed` or `nothing_to_wait_for`. */
  readonly code?: string;
  readonly failure?: { kind: 'retryable' | 'permanent'; message: string };
  readonly summary?: string;
  readonly data?: any;
  readonly tokensUsed?: number;
  readonly cost?: number;
  readonly triggers: Trigger[];
  readonly lines: { level: 'trace' | 'debug' | 'info' | 'warn' | 'error'; message: string; fields: Record<string, string> }[];
  readonly created: Created[];
  readonly cancelled: RequestId[];
  readonly questions: { id: string; text: string; options: string[]; details: any; expiresIn?: number }[];
  readonly timers: { name: string; delay: number }[];
  /** Changes of deployments, in order. */
  readonly deployed: Change[];
  /** Statements that it ran, migrations left out. */
  readonly statements: { schema: string; sql: string; parameters: any[] }[];
}
