// The environments and deployments of a pretended organisation: what `deploy` answers in tests.
//
// A run works on a copy of the host's estate. What it asks for is there at once, `pending` and without a
// revision of its own; if the run ends well, the copy takes the place of the host's and its changes are
// numbered (`commit`). They stay under way until the test says what became of them (`settle`): of what was
// refused after all nothing stays.

import { json } from './contract.js';
import { Clusters } from './fake-cluster.js';
import { NOW, object, refuse } from './fake.js';

const MOST_CHANGES = 100;
const MOST_VARIABLES = 500;
const VARIABLES_BYTES = 512 << 10;
const SETTINGS_BYTES = 64 << 10;
const MOST_LISTED = 1_000;
const MOST_PODS = 100;

const STATES = ['pending', 'deploying', 'running', 'failed', 'stopped'];
const UNDER_WAY = ['pending', 'deploying'];
/** Reasons for which what was asked for was never done. */
const REFUSED = ['not_found', 'forbidden', 'conflict', 'invalid', 'rejected', 'not_approved'];
const LABEL = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,252}$/;
// [registry/]repository[:tag][@digest]; a registry has a dot or a port, or is localhost.
const HOST = '[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*';
const PART = '[a-z0-9]+(?:(?:\\.(?!\\.)|[_-])+[a-z0-9]+)*';
const IMAGE = new RegExp(
  `^(?:(?:localhost|${HOST}(?:\\.${HOST})+|${HOST}(?=:))(?::[1-9]\\d{0,4})?/)?${PART}(?:/${PART})*` +
    '(?::(\\w[\\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?$',
);

const isApp = (name) => LABEL.test(name) && /^[a-z]/.test(name) && name.length <= 50;

/** The image's tag, else its digest. */
const versionOf = (image) => {
  const [, tag, digest] = IMAGE.exec(image);
  return tag ?? digest ?? 'latest';
};

function checkImage(image) {
  if (image.length > 512) refuse('invalid', 'image: is longer than 512 characters');
  if (!IMAGE.test(image)) refuse('invalid', `image: \`${image}\` is not an image, as in acme/api:v1.2.3`);
}

function checkApp(app) {
  if (!isApp(app)) {
    refuse(
      'invalid',
      `app: \`${app}\` is not a DNS label of at most 50 characters that begins with a letter: ` +
        'lower-case letters, digits and `-`, no `-` at the end',
    );
  }
}

function checkVariables(pairs) {
  if (pairs.length > MOST_VARIABLES) refuse('invalid', `env_vars: may be at most ${MOST_VARIABLES} variables`);
  const bytes = pairs.reduce((sum, [name, value]) => sum + Buffer.byteLength(name) + Buffer.byteLength(value), 0);
  if (bytes > VARIABLES_BYTES) refuse('invalid', `env_vars: may have at most ${VARIABLES_BYTES} bytes together`);
  for (const [name, value] of pairs) {
    if (!VARIABLE.test(name)) {
      refuse('invalid', `env_vars: \`${name}\` is not a variable's name: letters, digits and \`_\`, no digit first`);
    }
    if (value.includes('\0')) refuse('invalid', `env_vars: ${name}: may not contain the character U+0000`);
  }
}

const within = (least, most) => (value) => Number.isInteger(value) && value >= least && value <= most;
const quantity = (units) => {
  const form = new RegExp(`^([0-9.]{1,12})(?:${units})$`);
  return (value) => typeof value === 'string' && Number(form.exec(value)?.[1]) > 0;
};
// By name: what fits, and what is to be done about what does not.
const SETTINGS = {
  port: [within(1, 65_535), 'must be 1 to 65535'],
  health_path: [
    (value) => typeof value === 'string' && /^\/[!-~]{0,1023}$/.test(value),
    'must be a path that begins with `/`, such as /healthz',
  ],
  cpu: [quantity('m?'), 'must be a number of cores, such as 250m or 2'],
  memory: [quantity('Ki|Mi|Gi|k|M|G'), 'must be a number of bytes with its unit, such as 256Mi or 1Gi'],
  command: [
    (value) =>
      Array.isArray(value) && value.length <= 100 &&
      value.every((word) => typeof word === 'string' && Buffer.byteLength(word) <= 4_096),
    'must be at most 100 words of at most 4096 bytes',
  ],
  autoscale: [
    ({ min, max, cpu_percent = 80 }) => within(1, 100)(min) && within(min, 100)(max) && within(1, 100)(cpu_percent),
    'must be at least 1 and at most 100 replicas, `min` first',
  ],
  run_as_user: [within(1, 2_147_483_647), 'must be 1 to 2147483647: nothing runs as root'],
  deadline_s: [within(5, 3_600), 'must be 5 to 3600 seconds'],
};

/** What was said, `null` being as if it were not; a name that is unknown here may be known to the platform. */
function checkSettings(text) {
  const said = Object.entries(JSON.parse(object('settings', text, SETTINGS_BYTES)));
  const settings = said.filter(([, value]) => value !== null);
  for (const [name, value] of settings) {
    const [fits, problem] = Object.hasOwn(SETTINGS, name) ? SETTINGS[name] : [() => true];
    if (!fits(value)) refuse('invalid', `settings.${name}: ${problem}`);
  }
  return Object.fromEntries(settings);
}

/** What is said now over what was said before. No command is none said. */
const merged = (before, { command, ...now }) => ({ ...before, ...now, ...(command?.length && { command }) });

const podsOf = ({ app, image, desired }) =>
  Array.from({ length: Math.min(desired, MOST_PODS) }, (_, index) => ({
    name: `${app}-${index}`, status: 'Running', ready: true, restarts: 0, version: versionOf(image),
  }));

/** Everything that the organisation has deployed, and where. */
export class Estate {
  /** What was asked for since the last commit: as `Run.deployed` has it. */
  changes = [];
  /** Ids of deployments that the request is woken for. */
  awaited = new Set();
  #next;
  #workerType;
  #environments = new Map();
  #apps;
  #deployments = new Map();
  /** Before the run. */
  #earlier = new Map();
  #clusters;

  constructor(asked, next) {
    const { environments = [], apps = [], deployments = [], kubernetes = {}, unreachable = [] } = asked;
    this.#next = next;
    this.#workerType = asked.workerType ?? 'general';
    this.#apps = new Set(apps);
    this.#clusters = new Clusters(unreachable);
    for (const one of environments) this.#environment(typeof one === 'string' ? { name: one } : one);
    for (const name of unreachable) this.#implied(name);
    for (const one of deployments) this.#deployed(one);
    for (const [env, answers] of Object.entries(kubernetes)) {
      for (const [path, answer] of Object.entries(answers)) this.answers(env, path, answer);
    }
  }

  #environment({ name, status = 'ready', message, allowed = true, approval = false }) {
    if (!LABEL.test(name) || name.length > 40) throw new Error(`${name} is not the name of an environment`);
    this.#environments.set(name, { name, status, message, allowed, approval });
  }

  /** What the test speaks of is there. */
  #implied(name) {
    if (!this.#environments.has(name)) this.#environment({ name });
  }

  /** What the test says is there already; its environment and its app are then there as well. */
  #deployed({ id = this.#next(), askedFor = false, logs = [], ...given }) {
    const one = this.#standing({ ...given, id });
    this.#deployments.set(`${one.env}/${one.app}`, one);
    if (askedFor && UNDER_WAY.includes(one.state)) this.awaited.add(id);
    this.#clusters.wrote(id, one.app, logs);
  }

  #standing(given) {
    const { id, env, app, image, before = [], replicas = 1, state = 'running', ...more } = given;
    if (!STATES.includes(state)) throw new Error(`${state} is none of ${STATES.join(', ')}`);
    [image, ...before].forEach(checkImage);
    checkApp(app);
    this.#implied(env);
    this.#apps.add(app);
    const { envVars = {}, settings = {}, reason, message } = more;
    const revisions = [...before, image].map((image, index) => ({
      revision: index + 1,
      template: index + 1,
      kind: index === 0 ? 'created' : 'updated',
      image,
      replicas,
      settings: JSON.parse(json('settings', settings)),
      variables: Object.keys(envVars).sort(),
      outcome: 'running',
      ran: true,
    }));
    if (!['running', 'stopped'].includes(state)) {
      const outcome = state === 'failed' ? 'failed' : undefined;
      Object.assign(revisions.at(-1), { outcome, ran: false, reason, message });
    }
    const one = { id, env, app, state, revisions, committed: revisions.length, stopping: false, reason, message };
    Object.assign(one, { image, desired: replicas, ready: state === 'running' ? replicas : 0 });
    const ran = { ...given, image: before.at(-1), before: before.slice(0, -1), state: 'running' };
    return {
      ...one,
      pods: state === 'running' ? podsOf(one) : [],
      earlier: UNDER_WAY.includes(state) && before.length > 0 ? this.#standing(ran) : undefined,
    };
  }

  /** What the pods of a deployment have written. */
  wrote(id, lines) {
    this.#clusters.wrote(id, this.#withId(id).app, lines);
  }

  /** What the Kubernetes API answers. */
  answers(env, path, answer) {
    this.#implied(env);
    this.#clusters.answers(env, path, answer);
  }

  /** For a run: what it changes there, nobody sees. */
  copy() {
    const copy = new Estate({ workerType: this.#workerType }, this.#next);
    copy.#earlier = this.#deployments;
    copy.#environments = this.#environments;
    copy.#clusters = this.#clusters;
    copy.#apps = new Set(this.#apps);
    copy.#deployments = structuredClone(this.#deployments);
    copy.awaited = new Set(this.awaited);
    return copy;
  }

  /** What a run asked for comes to be. */
  commit() {
    for (const [place, one] of this.#deployments) {
      if (!this.changes.some(({ id }) => id === one.id)) continue;
      const earlier = this.#earlier.get(place);
      one.earlier = earlier && { ...earlier, awaited: this.awaited.has(one.id) };
      const latest = one.revisions.length - 1;
      one.revisions.forEach((revision, index) => {
        const over = index < latest ? 'superseded' : one.stopping ? 'stopped' : undefined;
        revision.outcome ??= over;
      });
      one.committed = one.revisions.length;
      if (one.stopping) one.state = 'deploying';
    }
    for (const { id } of this.changes) this.awaited.add(id);
    this.changes = [];
    return this;
  }

  /** Where a deployment stands. */
  stateOf(id) {
    return this.#withId(id).state;
  }

  #withId(id) {
    const found = [...this.#deployments.values()].find((one) => one.id === id);
    if (!found) throw new Error(`there is no deployment ${id}`);
    return found;
  }

  /** A deployment comes to rest: what the request is told that is woken for it, if it is. */
  settle(id, status, reason, message) {
    const one = this.#withId(id);
    const refused = status === 'failed' && REFUSED.includes(reason);
    const superseded = status === 'failed' && reason === 'superseded';
    const ends = one.stopping && !refused && !superseded ? ['stopped'] : ['running', 'failed', 'stopped'];
    if (!UNDER_WAY.includes(one.state)) throw new Error(`deployment ${id} has settled already: it is ${one.state}`);
    if (!ends.includes(status)) throw new Error(`deployment ${id} settles as ${ends.join(', ')}, not as ${status}`);
    const told = { env: one.env, app: one.app, revision: refused ? null : one.committed, message: message ?? null };
    const woken = this.awaited.delete(id) ? told : undefined;
    if (refused) this.#undo(one);
    else if (superseded) this.#supersede(one);
    else this.#come(one, status, reason, message);
    return woken;
  }

  /** What was asked for is not to be. */
  #undo({ id, env, app, earlier }) {
    if (!earlier) {
      this.#deployments.delete(`${env}/${app}`);
      return;
    }
    const { awaited, ...before } = earlier;
    this.#deployments.set(`${env}/${app}`, before);
    if (awaited) this.awaited.add(id);
  }

  /** What somebody else has asked for is on its way. */
  #supersede(one) {
    const ours = one.revisions.at(-1);
    ours.outcome ??= 'superseded';
    const number = one.revisions.length + 1;
    const theirs = { revision: number, template: number, kind: 'updated', outcome: undefined, ran: false };
    one.revisions.push({ ...ours, ...theirs });
    const now = { state: 'deploying', stopping: false, reason: undefined, message: undefined };
    Object.assign(one, { ...now, committed: number });
  }

  #come(one, status, reason, message) {
    Object.assign(one, { state: status, reason, message, stopping: false, earlier: undefined });
    const runs = status === 'running';
    if (status !== 'failed') one.ready = runs ? one.desired : 0;
    if (status !== 'failed') one.pods = runs ? podsOf(one) : [];
    const latest = one.revisions.at(-1);
    latest.outcome ??= status;
    if (status === 'failed') Object.assign(latest, { reason, message });
    latest.ran ||= runs;
  }

  #known(env) {
    return this.#environments.get(env) ?? refuse('not-found', `there is no environment \`${env}\``);
  }

  /** The environment, if it is one of those that are for this run's worker type. */
  #allowed(env) {
    const found = this.#known(env);
    if (!found.allowed) {
      refuse('denied', `skills of the worker type \`${this.#workerType}\` may not deploy to \`${env}\``);
    }
    return found;
  }

  /** Whether this run may deploy there. */
  #permitted(env) {
    if (this.#allowed(env).status === 'deleting') refuse('conflict', `the environment \`${env}\` is being deleted`);
  }

  #any(env, app) {
    this.#known(env);
    return this.#deployments.get(`${env}/${app}`) ?? refuse('not-found', `there is no deployment \`${app} in ${env}\``);
  }

  /** A deployment that can be changed. */
  #existing(env, app) {
    this.#room();
    this.#permitted(env);
    const one = this.#any(env, app);
    return one.stopping || one.state === 'stopped' ? refuse('not-found', `there is no deployment \`${app}\``) : one;
  }

  #room() {
    if (this.changes.length >= MOST_CHANGES) {
      refuse('limit', `a run asks for at most ${MOST_CHANGES} changes of deployments`);
    }
  }

  #revise(one, asked) {
    const revision = one.revisions.length + 1;
    one.revisions.push({ template: revision, ...asked, revision, ran: false });
    Object.assign(one, {
      state: 'pending', stopping: false, image: asked.image, desired: asked.replicas,
      reason: undefined, message: undefined,
    });
  }

  #create({ env, app, register, image, replicas, envVars, settings }) {
    this.#room();
    checkApp(app);
    checkImage(image);
    if (envVars) checkVariables(envVars);
    const said = checkSettings(settings);
    this.#permitted(env);
    if (!this.#apps.has(app)) {
      if (!register) refuse('not-found', `there is no app \`${app}\``);
      this.#apps.add(app);
    }
    const key = `${env}/${app}`;
    const empty = { id: undefined, env, app, state: 'stopped', revisions: [], committed: 0, ready: 0, pods: [] };
    const one = this.#deployments.get(key) ?? { ...empty, id: this.#next() };
    this.#deployments.set(key, one);
    // What it was before it was deleted is no reason to be so again.
    const before = one.stopping || one.state === 'stopped' ? undefined : one.revisions.at(-1);
    const now = merged(before?.settings ?? {}, said);
    // Whoever says how many replicas there shall be does not want the load to say so.
    if (replicas !== undefined && !said.autoscale) delete now.autoscale;
    this.#revise(one, {
      kind: before ? 'updated' : 'created',
      image,
      replicas: replicas ?? before?.replicas ?? now.autoscale?.min ?? 1,
      settings: now,
      variables: envVars ? envVars.map(([name]) => name).sort() : (before?.variables ?? []),
    });
    this.changes.push({
      kind: 'create', id: one.id, env, app, register, image, replicas,
      envVars: envVars && Object.fromEntries(envVars),
      settings: settings === undefined ? undefined : said,
    });
    return one.id;
  }

  #scale(env, app, replicas) {
    const one = this.#existing(env, app);
    const before = one.revisions.at(-1);
    const { autoscale } = before.settings;
    if (autoscale) {
      refuse(
        'conflict',
        `\`${app}\` has ${autoscale.min} to ${autoscale.max} replicas, as its load wants: ` +
          'deploy it without autoscaling to say how many',
      );
    }
    const { image, template, settings, variables } = before;
    this.#revise(one, { kind: 'scaled', image, template, settings, variables, replicas });
    this.changes.push({ kind: 'scale', id: one.id, env, app, replicas });
    return one.id;
  }

  #rollback(env, app, { tag, val }) {
    const one = this.#existing(env, app);
    const now = one.revisions.at(-1);
    const ran = one.revisions.filter((revision) => revision.ran).reverse();
    const wanted = {
      version: ({ image }) => versionOf(image) === val,
      revision: ({ revision }) => revision === val,
      previous: ({ template }) => template !== now.template,
    }[tag];
    const target = ran.find(wanted);
    if (!target) {
      const what = { version: `version \`${val}\``, revision: `revision ${val}`, previous: 'other version' }[tag];
      const others = new Set(ran.map(({ image, revision }) => (tag === 'revision' ? revision : versionOf(image))));
      const these = others.size ? `; these did: ${[...others].slice(0, 20).join(', ')}` : '';
      refuse('conflict', `no ${what} of \`${app}\` ever ran in \`${env}\`${these}`);
    }
    const { image, settings, variables } = target;
    this.#revise(one, { kind: 'rolled_back', image, settings, variables, replicas: now.replicas });
    this.changes.push({ kind: 'rollback', id: one.id, env, app, ...(tag !== 'previous' && { [tag]: val }) });
    return one.id;
  }

  #delete(env, app) {
    const one = this.#existing(env, app);
    Object.assign(one, { state: 'pending', stopping: true, reason: 'stopping', message: 'it is being deleted' });
    this.changes.push({ kind: 'delete', id: one.id, env, app });
    return one.id;
  }

  #shown(one) {
    const { settings, variables } = one.revisions.at(-1);
    return {
      id: one.id, app: one.app, env: one.env, state: one.state, image: one.image, version: versionOf(one.image),
      revision: one.committed, desired: one.desired, ready: one.ready, pods: one.pods, reason: one.reason,
      message: one.message, config: JSON.stringify({ ...settings, variables }), updatedAt: NOW,
    };
  }

  /** The contract's interface. */
  platform() {
    const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
    return {
      environments: () => [...this.#environments.values()].sort((a, b) => order(a.name, b.name)),
      create: (deployment) => this.#create(deployment),
      scale: (env, app, replicas) => this.#scale(env, app, replicas),
      rollback: (env, app, to) => this.#rollback(env, app, to),
      delete: (env, app) => this.#delete(env, app),
      status: (env, app) => this.#shown(this.#any(env, app)),
      list: (env) => {
        if (env !== undefined) this.#known(env);
        return [...this.#deployments.values()]
          .filter((one) => one.state !== 'stopped' && (env === undefined || one.env === env))
          .sort((a, b) => order(a.env, b.env) || order(a.app, b.app))
          .slice(0, MOST_LISTED)
          .map((one) => ({ ...this.#shown(one), pods: [] }));
      },
      history: (env, app, limit) => {
        const one = this.#any(env, app);
        return one.revisions
          .slice(0, one.committed)
          .reverse()
          .slice(0, limit)
          .map(({ revision, kind, image, replicas, outcome, reason, message }) => ({
            revision, kind, image, version: versionOf(image), replicas, outcome, reason, message,
            createdAt: NOW, settledAt: outcome && NOW,
          }));
      },
      logs: (env, app, tail) => {
        this.#allowed(env);
        const { id, state, committed } = this.#any(env, app);
        // What only this run knows of, no cluster does.
        if (committed === 0) refuse('not-found', `there is no deployment \`${app} in ${env}\``);
        return state === 'stopped' ? [] : this.#clusters.logs(env, id, tail);
      },
      kubernetes: (env, path) => {
        this.#allowed(env);
        return this.#clusters.kubernetes(env, path);
      },
    };
  }
}
