// Apps of the organisation, in its own environments: deploy them, scale them, roll them back, look at
// them. What is asked for is checked at once and committed together with the run's outcome; then the
// platform makes it so if it still can, and wakes the orchestrator with `deployment_settled`.

import { integer, json, options, parse, show, text } from './contract.js';
import { call, invalid } from './errors.js';
import { platform } from './platform.js';

const MOST_REPLICAS = 1_000;
const MOST_LINES = 1_000;
const NEW = ['env', 'app', 'register', 'image', 'replicas', 'envVars', 'settings'];
const SETTLED = ['running', 'failed', 'stopped'];

const deploy = () => platform('deploy');

/** A text that must be there. */
function named(what, value, example) {
  const given = text(what, value);
  if (!given) throw invalid(`${what} is missing, such as ${example}`);
  return given;
}

const environmentName = (what, value) => named(`${what}: env`, value, "'prod'");
const appName = (what, value) => named(`${what}: app`, value, "'api-service'");

function count(what, value) {
  const replicas = integer(what, value, 0, MOST_REPLICAS);
  if (replicas === undefined) throw invalid(`${what} is missing: how many replicas there shall be`);
  return replicas;
}

/** A plain object of texts as pairs. */
function variables(what, given) {
  if (given === undefined) return undefined;
  const prototype = typeof given === 'object' && given !== null ? Object.getPrototypeOf(given) : undefined;
  // A Map has no properties to speak of: taken for no variables, it would have all of them forgotten.
  if (prototype !== null && prototype !== Object.prototype) {
    throw invalid(`${what}: is not an object of variables: { NAME: 'value' }`);
  }
  return Object.entries(given).map(([name, value]) => {
    // Values are not shown: they need not be for everybody's eyes.
    if (typeof value !== 'string') throw invalid(`${what}: ${name}: is a ${typeof value}, not a text`);
    return [name, value];
  });
}

/** The organisation's environments, by name. */
export function environments() {
  return call(() => deploy().environments()).map(({ name, status, message, allowed, approval }) => ({
    name, status, message, allowed, approval,
  }));
}

/** Deploys an app, or something else of it in place of what is there, and returns the deployment's id. */
export function create(deployment) {
  const what = 'deploy.create';
  const of = options(what, deployment, NEW);
  const { register = false } = of;
  if (typeof register !== 'boolean') throw invalid(`${what}: register: neither true nor false`);
  const fields = {
    env: environmentName(what, of.env),
    app: appName(what, of.app),
    register,
    image: named(`${what}: image`, of.image, "'acme/api:v1.2.3'"),
    replicas: integer(`${what}: replicas`, of.replicas, 0, MOST_REPLICAS),
    envVars: variables(`${what}: envVars`, of.envVars),
    settings: json(`${what}: settings`, of.settings),
  };
  return call(() => deploy().create(fields));
}

/** Gives a deployment another number of replicas, and returns its id. */
export function scale(env, app, replicas) {
  const what = 'deploy.scale';
  const given = [environmentName(what, env), appName(what, app), count(`${what}: replicas`, replicas)];
  return call(() => deploy().scale(...given));
}

function target(what, given) {
  const { version, revision } = options(what, given, ['version', 'revision']);
  if (version !== undefined && revision !== undefined) {
    throw invalid(`${what}: give a version or a revision, not both`);
  }
  if (version !== undefined) return { tag: 'version', val: named(`${what}: version`, version, "'v1.2.2'") };
  if (revision !== undefined) {
    return { tag: 'revision', val: integer(`${what}: revision`, revision, 1, 2 ** 32 - 1) };
  }
  // One that was to name something, and is the previous one by mistake, would take away what runs.
  if (Object.keys(given ?? {}).length > 0) throw invalid(`${what}: ${show(given)} names nothing to go back to`);
  return { tag: 'previous' };
}

/** Goes back to what once ran, its image and its configuration, and returns the deployment's id. */
export function rollback(env, app, to) {
  const what = 'deploy.rollback';
  const given = [environmentName(what, env), appName(what, app), target(what, to)];
  return call(() => deploy().rollback(...given));
}

/** Takes everything of a deployment out of its environment, and returns its id. Its history stays. */
function remove(env, app) {
  const what = 'deploy.delete';
  const given = [environmentName(what, env), appName(what, app)];
  return call(() => deploy().delete(...given));
}
// The name is a word of the language inside this module, and none behind `deploy.`.
export { remove as delete };

const deploymentOf = (one) => ({
  id: one.id,
  app: one.app,
  env: one.env,
  state: one.state,
  isSettled: SETTLED.includes(one.state),
  image: one.image,
  version: one.version,
  revision: one.revision,
  replicas: { desired: one.desired, ready: one.ready },
  pods: one.pods.map(({ name, status, ready, restarts, version }) => ({ name, status, ready, restarts, version })),
  reason: one.reason,
  message: one.message,
  config: parse(one.config),
  updatedAt: new Date(Number(one.updatedAt)),
});

/** How a deployment stands. What this run has asked for shows as `pending`. */
export function status(env, app) {
  const given = [environmentName('deploy.status', env), appName('deploy.status', app)];
  return deploymentOf(call(() => deploy().status(...given)));
}

/** The organisation's deployments, or those of one environment; without those that are stopped. */
export function list(env) {
  const of = env === undefined ? undefined : environmentName('deploy.list', env);
  return call(() => deploy().list(of)).map(deploymentOf);
}

/** A deployment's revisions, latest first; not those that this run has asked for. */
export function history(env, app, more) {
  const what = 'deploy.history';
  const { limit = 20 } = options(what, more, ['limit']);
  const given = [environmentName(what, env), appName(what, app), integer(`${what}: limit`, limit, 1, 100)];
  return call(() => deploy().history(...given)).map((one) => ({
    revision: one.revision,
    kind: one.kind,
    image: one.image,
    version: one.version,
    replicas: one.replicas,
    outcome: one.outcome,
    reason: one.reason,
    message: one.message,
    createdAt: new Date(Number(one.createdAt)),
    settledAt: one.settledAt === undefined ? undefined : new Date(Number(one.settledAt)),
  }));
}

/** The last lines of each of a deployment's pods, the newest pods first. The cluster is asked. */
export function logs(env, app, more) {
  const what = 'deploy.logs';
  const { tail = 100 } = options(what, more, ['tail']);
  const given = [environmentName(what, env), appName(what, app), integer(`${what}: tail`, tail, 1, MOST_LINES)];
  return call(() => deploy().logs(...given)).map(({ pod, line }) => ({ pod, line }));
}

/** What the Kubernetes API answers to a GET in the environment's own namespace. The cluster is asked. */
export function kubernetes(env, path) {
  const what = 'deploy.kubernetes';
  const given = [environmentName(what, env), named(`${what}: path`, path, "'api/v1/pods'")];
  return parse(call(() => deploy().kubernetes(...given)));
}
