/** A fake platform, so that `node --test` runs a skill's logic natively, without WebAssembly. */

import type { Duration, EndStatus, OnFailure, RequestId, Skill, Status, Trigger, queue } from './index.js';

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
  /** Statements that it ran, migrations left out. */
  readonly statements: { schema: string; sql: string; parameters: any[] }[];
}
