// A fake platform, so that `node --test` runs a skill's logic natively, without WebAssembly.
//
// A Host stands for one request. It answers as the platform does, as far as one request can tell, and
// knows only what the test tells it: nothing of time, of workers or of other organisations. A run that
// waits is run again by the same host, with what the test has let happen meanwhile.

import { json } from './contract.js';
import { SqlError } from './errors.js';
import { Estate } from './fake-deploy.js';
import { NOW, object, refuse } from './fake.js';
import { using } from './platform.js';
import { execute } from './skill.js';
import { Typed, fromContract, toContract } from './values.js';

const ENDED = ['completed', 'failed', 'cancelled'];
const DAY = 86_400_000n;

const contains = (whole, part) => {
  if (Array.isArray(part)) {
    return Array.isArray(whole) && part.every((value) => whole.some((found) => contains(found, value)));
  }
  if (part !== null && typeof part === 'object') {
    return (
      whole !== null && typeof whole === 'object' && !Array.isArray(whole) &&
      Object.entries(part).every(([name, value]) => Object.hasOwn(whole, name) && contains(whole[name], value))
    );
  }
  return whole === part;
};

/** What a blocker of some status does to its dependent. */
function edge(status, policy) {
  if (status === 'completed') return 'released';
  if (!ENDED.includes(status)) return 'holds';
  return { run: 'released', cancel: 'cancels', hold: 'holds' }[policy];
}

const triggerOf = (trigger) => {
  switch (trigger.type) {
    case 'initial':
      return { tag: 'initial' };
    case 'child_complete':
      return { tag: 'child-complete', val: { requestId: trigger.requestId, status: trigger.status } };
    case 'hitl_response':
      return {
        tag: 'hitl-response',
        val: {
          questionId: trigger.questionId,
          response: json('response', trigger.response),
          answeredBy: trigger.answeredBy,
        },
      };
    case 'deployment_settled': {
      const { deploymentId, status, reason } = trigger;
      return { tag: 'deployment-settled', val: { deploymentId, status, reason } };
    }
    default:
      return { tag: trigger.type, val: trigger.name };
  }
};

/** What a wake-up's context says of an event; `settled` knows more of a deployment than its trigger. */
const eventOf = (trigger, settled) => ({
  trigger: trigger.type,
  ...(trigger.requestId && {
    completed_request_id: trigger.requestId,
    completed_result_id: trigger.requestId,
  }),
  ...(trigger.deploymentId && {
    deployment_id: trigger.deploymentId,
    status: trigger.status,
    reason: trigger.reason ?? null,
    ...settled.get(trigger.deploymentId),
  }),
});

/** A request, and everything that a run of it can see. */
export class Host {
  #ids = 0;
  #known = new Map();
  #keys = new Map();
  #migrations = new Map();
  #inbox;
  #again;
  #attempt;
  #questions = new Map();
  #timers = new Map();
  #settled = new Map();
  #estate;
  #end;

  constructor(asked = {}) {
    this.asked = asked;
    this.id = this.#next();
    this.#attempt = asked.attempt ?? 1;
    this.#inbox = [asked.trigger ?? { type: 'initial' }, ...(asked.additionalTriggers ?? [])];
    this.#estate = new Estate(asked, () => this.#next());
    for (const child of asked.children ?? []) this.add({ ...child, parent: this.id });
    for (const other of asked.others ?? []) this.add(other);
  }

  #next() {
    this.#ids += 1;
    return `019b7654-0000-7000-8000-${this.#ids.toString(16).padStart(12, '0')}`;
  }

  /** Adds a request that is there already, and returns its id. */
  add(other) {
    const { id = this.#next(), output, data = output, problem } = other;
    const status = other.status ?? (problem ? 'failed' : data === undefined ? 'pending' : 'completed');
    this.#known.set(id, {
      id, status, problem,
      parent: other.parent,
      workerType: other.workerType ?? 'general',
      skill: other.skill,
      prompt: other.prompt ?? '',
      context: object('context', json('context', other.context), Infinity),
      metadata: object('metadata', json('metadata', other.metadata), Infinity),
      blockedBy: [],
      replyToMe: other.replyToMe ?? true,
      attempt: ENDED.includes(status) ? 1 : 0,
      summary: other.summary ?? '',
      data: json('output', data),
    });
    return id;
  }

  /** Where a request stands. */
  statusOf(id) {
    return this.#one(id).status;
  }

  #one(id) {
    const found = this.#known.get(id);
    if (!found) throw new Error(`there is no request ${id}`);
    return found;
  }

  /** A request completes with this data. */
  complete(id, data, summary = '') {
    return this.#finish(id, { status: 'completed', data: json('data', data), summary });
  }

  /** A request fails. */
  fail(id, message = 'failed', code = 'failed') {
    return this.#finish(id, { status: 'failed', problem: { code, message } });
  }

  /** A request is cancelled. */
  cancel(id, message = 'cancelled') {
    return this.#finish(id, { status: 'cancelled', problem: { code: 'cancelled', message } });
  }

  #finish(id, how) {
    const one = this.#one(id);
    if (ENDED.includes(one.status)) throw new Error(`request ${id} has ended already`);
    if (how.status === 'completed' && one.status === 'blocked') throw new Error(`request ${id} is blocked`);
    Object.assign(one, { attempt: 1 }, how);
    if (one.parent === this.id && one.replyToMe && !this.#end) {
      this.#inbox.push({ type: 'child_complete', requestId: id, status: one.status });
    }
    for (const dependent of this.#known.values()) {
      if (dependent.status !== 'blocked' || !dependent.blockedBy.some((blocker) => blocker.id === id)) continue;
      const standing = this.#standing(dependent.blockedBy, this.#known);
      if (standing === 'cancelled') {
        const problem = { code: 'blocker_failed', message: `${id} did not complete` };
        this.#finish(dependent.id, { status: 'cancelled', problem });
      } else {
        dependent.status = standing;
      }
    }
    return this;
  }

  #standing(blockers, known) {
    const edges = blockers.map((blocker) => edge(known.get(blocker.id).status, blocker.onFailure));
    if (edges.includes('cancels')) return 'cancelled';
    return edges.includes('holds') ? 'blocked' : 'pending';
  }

  /** A person answers a question. */
  answer(questionId, response, answeredBy = 'somebody') {
    return this.#close(questionId, { response, answeredBy });
  }

  /** Nobody answers a question in time. */
  expire(questionId) {
    return this.#close(questionId, {});
  }

  #close(questionId, answer) {
    if (!this.#questions.delete(questionId)) throw new Error(`no question ${questionId} is open`);
    this.#inbox.push({ type: 'hitl_response', questionId, ...answer });
    return this;
  }

  /** A timer goes off. */
  fire(name) {
    if (!this.#timers.delete(name)) throw new Error(`no timer ${name} is set`);
    this.#inbox.push({ type: 'timer', name });
    return this;
  }

  /** Where a deployment stands. */
  stateOf(deploymentId) {
    return this.#estate.stateOf(deploymentId);
  }

  /** A deployment comes to rest, and wakes the request if that has asked for it. */
  settle(deploymentId, status, reason, message) {
    const told = this.#estate.settle(deploymentId, status, reason, message);
    if (told && !this.#end) {
      this.#settled.set(deploymentId, told);
      this.#inbox.push({ type: 'deployment_settled', deploymentId, status, reason });
    }
    return this;
  }

  /** What the pods of a deployment have written by now, in place of what they had. */
  logs(deploymentId, lines) {
    this.#estate.wrote(deploymentId, lines);
    return this;
  }

  /** What the Kubernetes API answers from now on. */
  kubernetes(env, path, answer) {
    this.#estate.answers(env, path, answer);
    return this;
  }

  /** Runs the skill once, for everything that has happened since its last run. */
  async run(skill) {
    if (this.#end) throw new Error(`the request has ended already: it ${this.#end}`);
    const triggers = this.#again ?? this.#inbox.splice(0, 1_000);
    if (triggers.length === 0) throw new Error('nothing has happened that would wake the request');
    const run = new FakeRun(this, triggers, this.#attempt, {
      known: new Map([...this.#known].map(([id, one]) => [id, { ...one }])),
      keys: new Map(this.#keys),
      migrations: this.#migrations,
      settled: this.#settled,
      estate: this.#estate.copy(),
      next: () => this.#next(),
      standing: (blockers, known) => this.#standing(blockers, known),
    });
    let ended = await using(run.platform(), () => execute(skill));
    const waits =
      run.questions.length || run.timers.length || this.#questions.size || this.#timers.size || this.#inbox.length ||
      run.state.estate.changes.length || run.state.estate.awaited.size ||
      run.created.some((one) => one.replyToMe) ||
      [...run.state.known.values()].some((one) => one.parent === this.id && one.replyToMe && !ENDED.includes(one.status));
    let code = ended.tag === 'err' ? 'failed' : undefined;
    if (ended.val.tag === 'waiting' && !waits) {
      code = 'nothing_to_wait_for';
      const message = 'waiting, while nothing is outstanding that could wake it';
      ended = { tag: 'err', val: { tag: 'permanent', val: message } };
    }
    this.#keys = run.state.keys;
    const { changes } = run.state.estate;
    if (ended.tag === 'err') {
      // A retryable failure is tried again with the same triggers.
      this.#again = triggers;
      this.#attempt += 1;
      if (ended.val.tag === 'permanent') this.#end = 'failed';
    } else {
      this.#again = undefined;
      this.#attempt = 1;
      for (const one of run.created) this.#known.set(one.id, run.state.known.get(one.id));
      for (const question of run.questions) this.#questions.set(question.id, question);
      for (const timer of run.timers) this.#timers.set(timer.name, timer);
      for (const id of run.cancelled) this.cancel(id, 'cancelled by the run');
      this.#estate = run.state.estate.commit();
      if (ended.val.tag === 'completed') this.#end = 'completed';
    }
    return new Run(run, ended, code, changes);
  }
}

/** What a run came to. What it asked for is empty if it failed: nothing of that happens. */
export class Run {
  constructor(run, ended, code, changes) {
    const good = ended.tag === 'ok';
    const output = ended.val.tag === 'completed' ? ended.val.val : undefined;
    /** `completed`, `waiting` or `failed`. */
    this.status = good ? ended.val.tag : 'failed';
    this.code = code;
    this.failure = good ? undefined : { kind: ended.val.tag, message: ended.val.val };
    this.summary = output?.summary;
    this.data = output?.data === undefined ? undefined : JSON.parse(output.data);
    this.tokensUsed = output?.tokensUsed === undefined ? undefined : Number(output.tokensUsed);
    this.cost = output?.cost;
    this.triggers = run.triggers;
    this.lines = run.lines;
    this.statements = run.statements;
    this.created = good ? run.created : [];
    this.cancelled = good ? run.cancelled : [];
    this.questions = good ? run.questions : [];
    this.timers = good ? run.timers : [];
    this.deployed = good ? changes : [];
  }

  get isWaiting() {
    return this.status === 'waiting';
  }
}

/** The contract's interfaces, answered for one run. */
class FakeRun {
  lines = [];
  created = [];
  cancelled = [];
  questions = [];
  timers = [];
  statements = [];

  constructor(host, triggers, attempt, state) {
    Object.assign(this, { host, triggers, attempt, state });
  }

  platform() {
    return {
      request: this.request(),
      log: this.log(),
      queue: this.queue(),
      db: this.db(),
      deploy: this.state.estate.platform(),
    };
  }

  request() {
    const { asked, id } = this.host;
    const [trigger, ...additional] = this.triggers;
    const own = object('context', json('context', asked.context), 1 << 20);
    const wakeUp = () =>
      JSON.stringify({
        ...eventOf(trigger, this.state.settled),
        parent_request_id: id,
        parent_context: JSON.parse(own),
        additional_completions: additional.map((one) => eventOf(one, this.state.settled)),
      });
    return {
      id: () => id,
      attempt: () => this.attempt,
      prompt: () => asked.prompt ?? '',
      context: () => (['initial', 'cron'].includes(trigger.type) ? own : wakeUp()),
      repoUrl: () => asked.repoUrl,
      branch: () => asked.branch,
      config: () => object('config', json('config', asked.config), 64 << 10),
      metadata: () => object('metadata', json('metadata', asked.metadata), 64 << 10),
      trigger: () => triggerOf(trigger),
      additionalTriggers: () => additional.map(triggerOf),
      parentId: () => asked.parentId,
      workerType: () => asked.workerType ?? 'general',
      orgSlug: () => 'test',
      userId: () => undefined,
      deadline: () => NOW + 300_000n,
    };
  }

  log() {
    return {
      log: (level, message, pairs) => {
        if (this.lines.length < 1_000) this.lines.push({ level, message, fields: Object.fromEntries(pairs) });
      },
    };
  }

  find(id) {
    return this.state.known.get(id) ?? refuse('not-found', `there is no request ${id}`);
  }

  create(request, batch) {
    if (this.created.length >= 10_000) refuse('limit', 'a run creates at most 10000 requests');
    const context = object('context', request.context, 1 << 20);
    const metadata = object('metadata', request.metadata, 64 << 10);
    object('config', request.config, 64 << 10);
    const key = request.idempotencyKey;
    if (key !== undefined && this.state.keys.has(key)) return this.state.keys.get(key);
    const blockedBy = request.blockedBy.map(({ id, onFailure }) => {
      const entry = /^#(\d+)$/.exec(id);
      if (!entry) return { id: this.find(id).id, onFailure };
      const earlier = batch[Number(entry[1])];
      return earlier ? { id: earlier, onFailure } : refuse('invalid', `blocked_by: ${id} is no earlier entry`);
    });
    const id = this.state.next();
    const standing = this.state.standing(blockedBy, this.state.known);
    const status = standing === 'pending' && request.delay !== undefined ? 'scheduled' : standing;
    this.state.known.set(id, {
      ...request, id, status, context, metadata, blockedBy,
      parent: this.host.id, attempt: 0, summary: '',
      problem: status === 'cancelled' ? { code: 'blocker_failed', message: 'a blocker did not complete' } : undefined,
    });
    if (key !== undefined) this.state.keys.set(key, id);
    this.created.push({
      ...request, id, blockedBy,
      context: JSON.parse(context),
      metadata: JSON.parse(metadata),
      config: JSON.parse(request.config ?? '{}'),
      delay: request.delay === undefined ? undefined : Number(request.delay),
      timeout: request.timeout === undefined ? undefined : Number(request.timeout),
    });
    return id;
  }

  info(one) {
    const { id, workerType, skill, status, prompt, context, metadata, attempt } = one;
    return { id, workerType, skill, status, prompt, context, metadata, attempt, createdAt: NOW };
  }

  ended(one) {
    if (!ENDED.includes(one.status)) return undefined;
    const output = one.status === 'completed' ? { summary: one.summary, data: one.data } : undefined;
    return { requestId: one.id, status: one.status, output, problem: one.problem, finishedAt: NOW };
  }

  queue() {
    const all = () => [...this.state.known.values()];
    const self = () => ({
      ...this.host.asked, id: this.host.id, status: 'processing', attempt: this.attempt,
      workerType: this.host.asked.workerType ?? 'general', prompt: this.host.asked.prompt ?? '',
      context: object('context', json('context', this.host.asked.context), 1 << 20), metadata: '{}', blockedBy: [],
    });
    const find = (id) => (id === this.host.id ? self() : this.find(id));
    return {
      create: (request) => this.create(request, []),
      createMany: (requests) => {
        const before = [this.created.length, new Map(this.state.known), new Map(this.state.keys)];
        const ids = [];
        try {
          for (const request of requests) ids.push(this.create(request, ids));
        } catch (error) {
          this.created.length = before[0];
          [this.state.known, this.state.keys] = [before[1], before[2]];
          throw error;
        }
        return ids;
      },
      get: (id) => this.info(find(id)),
      result: (id) => this.ended(find(id)),
      list: (filter) =>
        all()
          .filter((one) => filter.statuses.length === 0 || filter.statuses.includes(one.status))
          .filter((one) => filter.workerType === undefined || filter.workerType === one.workerType)
          .filter((one) => filter.context === undefined || contains(JSON.parse(one.context), JSON.parse(filter.context)))
          .filter((one) => filter.before === undefined || one.id < filter.before)
          .reverse()
          .slice(0, filter.limit ?? 20)
          .map((one) => this.info(one)),
      children: (of) => {
        find(of);
        return all()
          .filter((one) => one.parent === of)
          .map((one) => ({ request: this.info(one), ended: this.ended(one) }));
      },
      blockers: (of) =>
        find(of).blockedBy.map(({ id, onFailure }) => {
          const { status } = this.find(id);
          return { id, status, onFailure, open: edge(status, onFailure) === 'holds' };
        }),
      cancel: (id, reason) => {
        const one = this.find(id);
        if (ENDED.includes(one.status)) refuse('conflict', `the request is ${one.status}`);
        Object.assign(one, { status: 'cancelled', problem: { code: 'cancelled', message: reason ?? 'cancelled' } });
        this.cancelled.push(id);
      },
      ask: (question) => {
        if (this.questions.length >= 100) refuse('limit', 'a run asks at most 100 questions');
        if (question.text === '') refuse('invalid', 'text: is empty');
        if (new Set(question.options).size < question.options.length) refuse('invalid', 'options: one is given twice');
        const { expiresIn } = question;
        if (expiresIn !== undefined && (expiresIn < 1_000n || expiresIn > 30n * DAY)) {
          refuse('invalid', 'expires_in: is not between a second and 30 days');
        }
        const details = JSON.parse(object('details', question.details, 64 << 10));
        const id = this.state.next();
        this.questions.push({
          id, text: question.text, options: question.options, details,
          expiresIn: expiresIn === undefined ? undefined : Number(expiresIn),
        });
        return id;
      },
      wakeAfter: (delay, name) => {
        if (delay < 1_000n || delay > 365n * DAY) refuse('invalid', 'delay: is not between a second and 365 days');
        if (name === '' || [...name].length > 255) refuse('invalid', 'name: has 1 to 255 characters');
        this.timers = this.timers.filter((timer) => timer.name !== name);
        this.timers.push({ name, delay: Number(delay) });
      },
    };
  }

  db() {
    const answer = (schema, statement) => {
      const parameters = statement.parameters.map(fromContract);
      const asked = { schema, sql: statement.sql, parameters };
      this.statements.push(asked);
      const { db } = this.host.asked;
      if (!db) throw new Error("the test has no database: new Host({ db: ({ sql, parameters }) => rows })");
      let said;
      try {
        said = db(asked) ?? [];
      } catch (error) {
        if (!(error instanceof SqlError)) throw error;
        const { sqlState: code, message, detail, hint, constraint } = error;
        return refuse('sql', { code, message, detail, hint, constraint, statement: 0 });
      }
      const rows = Array.isArray(said) ? said : [];
      const affected = Array.isArray(said) ? said.length : said;
      const wanted = statement.expectedRows;
      if (wanted !== undefined && Number(wanted) !== affected) {
        refuse('row-count', `${affected} rows instead of ${wanted}`);
      }
      const names = Object.keys(rows[0] ?? {});
      return {
        columns: names.map((name) => ({ name, typeName: 'text' })),
        rows: rows.map((row) => names.map((name) => column(row[name]))),
        affected: BigInt(affected),
      };
    };
    return {
      query: answer,
      execute: (schema, statement) => answer(schema, statement).affected,
      transaction: (schema, statements) => statements.map((statement) => answer(schema, statement)),
      migrate: (schema, migrations) => {
        const applied = this.state.migrations.get(schema) ?? new Map();
        this.state.migrations.set(schema, applied);
        const now = migrations.filter(({ number, sql }) => {
          if (applied.has(number) && applied.get(number) !== sql) {
            refuse('migration', `${number} ran, and is not what it was`);
          }
          return !applied.has(number);
        });
        for (const { number, sql } of now) applied.set(number, sql);
        return Uint32Array.from(now, ({ number }) => number);
      },
    };
  }
}

const column = (value) => (value instanceof Typed ? { tag: value.tag, val: value.val } : toContract('a column', value));
