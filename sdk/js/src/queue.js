// Requests of the same organisation: create more of them, look at them, cancel them; put questions
// to its people, and be woken later. What is asked for here is checked at once and committed together
// with the run's outcome: all of it or, when the run fails or is lost, none of it.

import { duration, exact, integer, json, list as listOf, options, parse, text, word } from './contract.js';
import { call, invalid } from './errors.js';
import { platform } from './platform.js';

const STATUSES = [
  'scheduled', 'blocked', 'pending', 'claimed', 'processing', 'waiting', 'completed', 'failed', 'cancelled',
];
const POLICIES = ['cancel', 'run', 'hold'];
const NEW = [
  'workerType', 'skill', 'prompt', 'context', 'repoUrl', 'branch', 'config', 'metadata', 'blockedBy',
  'onFailure', 'replyToMe', 'detached', 'delay', 'priority', 'maxAttempts', 'timeout', 'idempotencyKey',
];

const queue = () => platform('queue');

function flag(what, value = false) {
  if (typeof value !== 'boolean') throw invalid(`${what}: neither true nor false`);
  return value;
}

function blocker(what, value, policy) {
  const named = typeof value === 'object' && value !== null;
  const { id, onFailure } = named ? options(what, value, ['id', 'onFailure']) : { id: value };
  return {
    id: typeof id === 'number' ? `#${integer(what, id, 0, 10_000)}` : (text(what, id) ?? ''),
    onFailure: word(`${what}: onFailure`, onFailure ?? policy ?? 'cancel', POLICIES),
  };
}

function newRequest(what, given) {
  const of = options(what, given, NEW);
  const workerType = text(`${what}: workerType`, of.workerType);
  if (!workerType) throw invalid(`${what}: workerType is missing: which workers run it, such as 'general'`);
  return {
    workerType,
    skill: text(`${what}: skill`, of.skill),
    prompt: text(`${what}: prompt`, of.prompt) ?? '',
    context: json(`${what}: context`, of.context),
    repoUrl: text(`${what}: repoUrl`, of.repoUrl),
    branch: text(`${what}: branch`, of.branch),
    config: json(`${what}: config`, of.config),
    metadata: json(`${what}: metadata`, of.metadata),
    blockedBy: listOf(`${what}: blockedBy`, of.blockedBy).map((one) =>
      blocker(`${what}: blockedBy`, one, of.onFailure),
    ),
    replyToMe: flag(`${what}: replyToMe`, of.replyToMe),
    detached: flag(`${what}: detached`, of.detached),
    delay: duration(`${what}: delay`, of.delay),
    priority: integer(`${what}: priority`, of.priority, -100, 100),
    maxAttempts: integer(`${what}: maxAttempts`, of.maxAttempts, 1, 25),
    timeout: duration(`${what}: timeout`, of.timeout),
    idempotencyKey: text(`${what}: idempotencyKey`, of.idempotencyKey),
  };
}

/** Creates a request, and returns its id. */
export function create(request) {
  const fields = newRequest('queue.create', request);
  return call(() => queue().create(fields));
}

/** Creates all of the requests or none, and returns their ids in the same order. */
export function createMany(requests) {
  const fields = listOf('queue.createMany', requests).map((one, index) =>
    newRequest(`queue.createMany: entry ${index}`, one),
  );
  return call(() => queue().createMany(fields));
}

const infoOf = (info) => ({
  id: info.id,
  workerType: info.workerType,
  skill: info.skill,
  status: info.status,
  prompt: info.prompt,
  context: parse(info.context),
  metadata: parse(info.metadata),
  attempt: info.attempt,
  createdAt: new Date(Number(info.createdAt)),
});

const endOf = (ended) =>
  ended && {
    requestId: ended.requestId,
    status: ended.status,
    summary: ended.output?.summary ?? '',
    output: parse(ended.output?.data),
    tokensUsed: exact(ended.output?.tokensUsed),
    cost: ended.output?.cost,
    problem: ended.problem && { code: ended.problem.code, message: ended.problem.message },
    finishedAt: new Date(Number(ended.finishedAt)),
  };

/** A request of this organisation. */
export const get = (id) => infoOf(call(() => queue().get(String(id))));

/** What a request ended with; undefined while it is open. */
export const result = (id) => endOf(call(() => queue().result(String(id))));

/** The requests that this one, or the given one, created, oldest first. */
export function children(of) {
  const id = of ?? platform('request').id();
  return call(() => queue().children(String(id))).map(({ request, ended }) => ({
    ...infoOf(request),
    isOpen: ended === undefined,
    ended: endOf(ended),
    output: parse(ended?.output?.data),
  }));
}

/** What the given request waits for, or has waited for; this one unless another is named. */
export function blockers(of) {
  const id = of ?? platform('request').id();
  return call(() => queue().blockers(String(id))).map((one) => ({
    id: one.id,
    status: one.status,
    onFailure: one.onFailure,
    isOpen: one.open,
  }));
}

/** Requests of this organisation, newest first. */
export function list(filter) {
  const known = ['context', 'statuses', 'workerType', 'limit', 'before'];
  const { context, statuses, workerType, limit, before } = options('queue.list', filter, known);
  const fields = {
    context: json('queue.list: context', context),
    statuses: listOf('queue.list: statuses', statuses).map((one) => word('queue.list: statuses', one, STATUSES)),
    workerType: text('queue.list: workerType', workerType),
    limit: integer('queue.list: limit', limit, 1, 100),
    before: text('queue.list: before', before),
  };
  return call(() => queue().list(fields)).map(infoOf);
}

/** Cancels an open request, and by the policies of their edges its dependents. */
export function cancel(id, reason) {
  call(() => queue().cancel(String(id), text('queue.cancel: reason', reason)));
}

/** Puts a question to the people of the organisation, and returns its id. */
export function ask(question, more) {
  const known = ['options', 'details', 'expiresIn'];
  const { options: choices, details, expiresIn } = options('queue.ask', more, known);
  const fields = {
    text: text('queue.ask', question) ?? '',
    options: listOf('queue.ask: options', choices).map((one) => text('queue.ask: options', one) ?? ''),
    details: json('queue.ask: details', details),
    expiresIn: duration('queue.ask: expiresIn', expiresIn),
  };
  return call(() => queue().ask(fields));
}

/** Wakes this request with the trigger `timer` of this name, once, so long after the run's commit. */
export function wakeAfter(delay, name) {
  const length = duration('queue.wakeAfter', delay);
  if (length === undefined) throw invalid('queue.wakeAfter: after how long?');
  call(() => queue().wakeAfter(length, text('queue.wakeAfter: name', name) ?? ''));
}
