// Does as the context's `do` says. Keep the same as probe-py.

import { completed, db, deploy, log, permanent, queue, retryable, skill, waiting } from '@eve-horizon/sdk';

const NAME = 'probe-js';

/** What each of some calls is refused with. */
function codesOf(calls) {
  const codes = {};
  for (const [name, act] of Object.entries(calls)) {
    try {
      act();
      codes[name] = 'none';
    } catch (error) {
      codes[name] = error.code ?? String(error);
    }
  }
  return codes;
}

const orders = {
  look: (request) =>
    completed(`${request.prompt} ✓`, {
      data: {
        trigger: request.trigger.type,
        attempt: request.attempt,
        context: request.context,
        worker_type: request.workerType,
        org: request.orgSlug,
        parent: request.parentId ?? null,
        deadline: request.deadline.getTime() > Date.now(),
        random: Math.random(),
        now: Date.now(),
        uuid: crypto.randomUUID(),
      },
      tokensUsed: 7,
      cost: 0.25,
    }),

  log() {
    log.info('plain');
    log.warn('with fields ü', { words: 3, list: [1, 2] });
    console.log('to standard output');
    console.error('to standard error');
    return completed('logged');
  },

  permanent() {
    queue.create({ workerType: 'nobody', prompt: 'never seen' });
    throw permanent('asked to fail');
  },

  retryable(request) {
    if (request.attempt < 2) throw retryable('not yet');
    return completed(`attempt ${request.attempt}`);
  },

  raise() {
    throw new TypeError('boom');
  },

  errors() {
    const codes = codesOf({
      not_found: () => queue.get('00000000-0000-7000-8000-000000000000'),
      malformed: () => queue.get('x'),
      context: () => queue.create({ workerType: 'general', context: [1] }),
      ours: () => queue.create({ workerType: 'general', priority: 1000 }),
      not_granted: () => db.query('notes', 'SELECT 1'),
    });
    return completed('tried', { data: codes });
  },

  deploy() {
    const id = deploy.create({
      env: 'dev', app: 'probe', register: true, image: 'acme/probe:v1', replicas: 2, envVars: { GREETING: 'ü' },
      settings: { port: 9000 },
    });
    const one = deploy.status('dev', 'probe');
    const { state, isSettled, version, revision, replicas, pods, config } = one;
    return completed('deployed', {
      data: {
        same: one.id === id, state, settled: isSettled, version, revision, ...replicas, pods: pods.length,
        port: config.port, variables: config.variables, updated: one.updatedAt.getTime() > 0,
        listed: deploy.list('dev').map(({ app }) => app),
      },
    });
  },

  deployed() {
    const of = (more) => ({ env: 'dev', app: 'probe', image: 'acme/probe:v2', ...more });
    const codes = codesOf({
      environment: () => deploy.create(of({ env: 'nowhere' })),
      app: () => deploy.create(of({ app: 'unregistered' })),
      closed: () => deploy.create(of({ env: 'closed' })),
      image: () => deploy.create(of({ image: 'A/b' })),
      settings: () => deploy.create(of({ settings: { privileged: true } })),
      variables: () => deploy.create(of({ envVars: { 'A-B': '' } })),
      ours: () => deploy.scale('dev', 'probe', 1_001),
      deployment: () => deploy.status('dev', 'other'),
      previous: () => deploy.rollback('dev', 'probe'),
      version: () => deploy.rollback('dev', 'probe', { version: 'v9' }),
      revision: () => deploy.rollback('dev', 'probe', { revision: 9 }),
      logs: () => deploy.logs('dev', 'other'),
      tail: () => deploy.logs('dev', 'probe', { tail: 0 }),
      path: () => deploy.kubernetes('dev', 'version'),
      read: () => deploy.kubernetes('closed', 'api/v1/pods'),
    });
    const { revision, state } = deploy.status('dev', 'probe');
    const history = deploy.history('dev', 'probe', { limit: 5 }).map((one) => [
      one.revision, one.kind, one.version, one.replicas, one.outcome ?? null, one.settledAt ?? null,
    ]);
    deploy.scale('dev', 'probe', 3);
    return completed('looked', {
      data: {
        environments: deploy.environments().map(({ name, allowed, approval }) => [name, allowed, approval]),
        codes, revision, state, history, scaled: deploy.status('dev', 'probe').replicas.desired, all: deploy.list().length,
      },
    });
  },

  wait({ trigger }) {
    if (trigger.type !== 'initial') throw permanent(`woken by ${trigger.type}`);
    deploy.create({ env: 'dev', app: 'probe', image: 'acme/probe:v2' });
    // What nobody has taken by then is withdrawn.
    return waiting({ deadline: '10s' });
  },

  undeploy() {
    deploy.delete('dev', 'probe');
    return completed(deploy.status('dev', 'probe').state);
  },

  async late() {
    await new Promise((resolve) => setTimeout(resolve, 20));
    return completed('late');
  },

  orchestrate(request) {
    const { trigger } = request;
    log.info(`woken by ${trigger.type}`);
    switch (trigger.type) {
      case 'initial':
        queue.createMany([
          { workerType: 'general', skill: NAME, prompt: 'a', context: { do: 'look' }, metadata: { n: 1 }, replyToMe: true },
          { workerType: 'general', skill: NAME, prompt: 'b', context: { do: 'permanent' }, replyToMe: true },
          {
            workerType: 'general', skill: NAME, prompt: 'c', context: { do: 'look' }, replyToMe: true, priority: 5,
            blockedBy: [0, { id: 1, onFailure: 'run' }], delay: '10ms', timeout: '1m', maxAttempts: 1,
          },
        ]);
        return waiting({ deadline: '1h' });
      case 'child_complete':
        if (queue.children().some((child) => child.isOpen)) return waiting();
        queue.ask('Go on?', { options: ['yes', 'no'], details: { why: 'a test' }, expiresIn: '1h' });
        return waiting();
      case 'hitl_response':
        if (trigger.response !== 'yes') throw permanent(`answered ${trigger.response}`);
        queue.wakeAfter('1s', 'wait a second');
        return waiting();
      case 'timer': {
        const children = queue.children();
        return completed(trigger.name, {
          data: {
            context: request.context,
            children: children.map(({ prompt, status, output, ended, metadata }) => ({
              prompt,
              status,
              trigger: output?.trigger ?? null,
              problem: ended.problem?.message ?? null,
              metadata,
            })),
            blockers: queue.blockers(children[2].id).map((one) => [one.status, one.onFailure, one.isOpen]),
            listed: queue.list({ context: { do: 'permanent' }, statuses: ['failed'] }).length,
            result: queue.result(children[0].id).tokensUsed,
          },
        });
      }
      default:
        throw permanent(`woken by ${trigger.type}`);
    }
  },
};

export default skill((request) => orders[request.context.do](request));
