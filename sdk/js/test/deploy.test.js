import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EveError, completed, deploy, retryable, skill, waiting } from '../src/index.js';
import { Host } from '../src/testing.js';

/** Runs what is asserted inside a run, so that its failure is the test's. */
const inside = async (host, act) => {
  const run = await host.run(skill((request) => act(request) ?? completed('')));
  assert.ok(run.status !== 'failed', run.lines.at(-1)?.message ?? run.failure?.message);
  return run;
};

const code = (act) => {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof EveError, String(error));
    return `${error.code}: ${error.message}`;
  }
  return 'no error';
};

const api = { env: 'prod', app: 'api' };

test('what is asked for is pending at once, numbered when the run commits, and settles', async () => {
  const host = new Host({ environments: ['dev', { name: 'prod', approval: true }] });
  let id;
  const author = skill(({ trigger, context }) => {
    assert.deepEqual(context, {});
    switch (trigger.type) {
      case 'initial': {
        assert.deepEqual(deploy.environments()[1], {
          name: 'prod', status: 'ready', message: undefined, allowed: true, approval: true,
        });
        assert.match(code(() => deploy.status('prod', 'api')), /^not_found: /);
        id = deploy.create({
          ...api, register: true, image: 'acme/api:v1', replicas: 3, envVars: { B: '2', A: '1' }, settings: { port: 80 },
        });
        assert.deepEqual(deploy.status('prod', 'api'), {
          ...api, id, state: 'pending', isSettled: false, image: 'acme/api:v1', version: 'v1', revision: 0,
          replicas: { desired: 3, ready: 0 }, pods: [], reason: undefined, message: undefined, config: { port: 80, variables: ['A', 'B'] },
          updatedAt: new Date('2026-01-01T00:00:00Z'),
        });
        assert.deepEqual(deploy.history('prod', 'api'), []);
        return waiting();
      }
      case 'deployment_settled':
        assert.deepEqual(trigger, { type: 'deployment_settled', deploymentId: id, status: 'running', reason: undefined });
        return completed('', { data: [deploy.status('prod', 'api'), deploy.list('prod'), deploy.list('dev')] });
    }
  });
  const first = await host.run(author);
  assert.equal(first.isWaiting, true, first.failure?.message);
  assert.deepEqual(first.deployed, [{
    kind: 'create', id, ...api, register: true, image: 'acme/api:v1', replicas: 3, envVars: { A: '1', B: '2' },
    settings: { port: 80 },
  }]);
  assert.equal(host.stateOf(id), 'pending');
  await assert.rejects(host.run(author), /nothing has happened/);
  const [one, listed, dev] = (await host.settle(id, 'running').run(author)).data;
  assert.deepEqual([one.state, one.isSettled, one.revision, one.replicas.ready], ['running', true, 1, 3]);
  assert.deepEqual(one.pods[0], { name: 'api-0', status: 'Running', ready: true, restarts: 0, version: 'v1' });
  assert.deepEqual([listed.length, listed[0].app, listed[0].pods, dev], [1, 'api', [], []]);
  assert.throws(() => host.settle(id, 'running'), /settled already/);
});

test('a failure says why, and nothing of a failed run happens', async () => {
  const host = new Host({ deployments: [{ ...api, image: 'acme/api:v1' }] });
  const author = skill(({ trigger, attempt }) => {
    if (trigger.type === 'initial') {
      deploy.create({ ...api, image: 'acme/api:v2' });
      if (attempt === 1) throw retryable('not yet');
      return waiting();
    }
    const { state, reason, message, replicas: { ready } } = deploy.status('prod', 'api');
    const [latest, before] = deploy.history('prod', 'api', { limit: 2 });
    return completed(trigger.reason, { data: { state, reason, message, ready, latest, before } });
  });
  const failed = await host.run(author);
  assert.deepEqual([failed.failure.message, failed.deployed], ['not yet', []]);
  const [{ id }] = (await host.run(author)).deployed;
  const done = await host.settle(id, 'failed', 'crash_loop', 'it exits').run(author);
  assert.equal(done.summary, 'crash_loop', done.failure?.message);
  const { latest, before, ...now } = done.data;
  assert.deepEqual(now, { state: 'failed', reason: 'crash_loop', message: 'it exits', ready: 1 });
  assert.deepEqual([latest.revision, latest.kind, latest.outcome, latest.reason], [2, 'updated', 'failed', 'crash_loop']);
  assert.deepEqual([before.revision, before.outcome, before.settledAt], [1, 'running', '2026-01-01T00:00:00.000Z']);
});

test('what a change does not say stays as it is', async () => {
  const given = { ...api, image: 'a:1', replicas: 2, envVars: { A: '1' }, settings: { port: 80, cpu: '1' } };
  await inside(new Host({ deployments: [given] }), () => {
    const look = () => {
      const { version, replicas, config, revision } = deploy.status('prod', 'api');
      return [version, replicas.desired, config, revision];
    };
    deploy.create({ ...api, image: 'a:2', settings: { cpu: '2', command: [], port: null } });
    assert.deepEqual(look(), ['2', 2, { port: 80, cpu: '2', variables: ['A'] }, 1]);
    deploy.scale('prod', 'api', 0);
    deploy.create({ ...api, image: 'a', envVars: {} });
    assert.deepEqual(look(), ['latest', 0, { port: 80, cpu: '2', variables: [] }, 1]);
    deploy.create({ ...api, image: 'a', settings: { autoscale: { min: 1, max: 3 } } });
    assert.match(code(() => deploy.scale('prod', 'api', 1)), /^conflict: .*1 to 3 replicas/);
    deploy.create({ ...api, image: 'a', replicas: 4 });
    deploy.scale('prod', 'api', 5);
    assert.equal(deploy.status('prod', 'api').replicas.desired, 5);
  });
});

test('rolling back goes to what ran', async () => {
  const host = new Host({ deployments: [{ ...api, image: 'a:3', before: ['a:1', 'a:2'], replicas: 2 }] });
  const run = await inside(host, () => {
    assert.match(code(() => deploy.rollback('prod', 'api', { version: '9' })), /^conflict: .*these did: 3, 2, 1$/);
    assert.match(code(() => deploy.rollback('prod', 'api', { revision: 9 })), /^conflict: .*these did: 3, 2, 1$/);
    deploy.scale('prod', 'api', 5);
    deploy.rollback('prod', 'api');
    assert.deepEqual([deploy.status('prod', 'api').version, deploy.status('prod', 'api').replicas.desired], ['2', 5]);
    deploy.rollback('prod', 'api', { version: '1' });
    deploy.rollback('prod', 'api', { revision: 3 });
    assert.equal(deploy.status('prod', 'api').version, '3');
    return waiting();
  });
  const { id } = run.deployed[0];
  assert.deepEqual(run.deployed, [
    { kind: 'scale', id, ...api, replicas: 5 },
    { kind: 'rollback', id, ...api },
    { kind: 'rollback', id, ...api, version: '1' },
    { kind: 'rollback', id, ...api, revision: 3 },
  ]);
  await inside(host.settle(id, 'running'), () => {
    assert.deepEqual(
      deploy.history('prod', 'api').map((one) => [one.revision, one.kind, one.version, one.outcome]),
      [
        [7, 'rolled_back', '3', 'running'], [6, 'rolled_back', '1', 'superseded'],
        [5, 'rolled_back', '2', 'superseded'], [4, 'scaled', '3', 'superseded'], [3, 'updated', '3', 'running'],
        [2, 'updated', '2', 'running'], [1, 'created', '1', 'running'],
      ],
    );
  });
  await inside(new Host({ deployments: [{ ...api, image: 'a:1' }] }), () => {
    assert.match(code(() => deploy.rollback('prod', 'api')), /^conflict: no other version/);
  });
});

test('what is deleted is gone, and can be deployed anew', async () => {
  const host = new Host({ deployments: [{ ...api, image: 'a:1', replicas: 3, envVars: { A: '1' } }] });
  const author = skill(({ trigger }) => {
    if (trigger.type === 'initial') {
      deploy.delete('prod', 'api');
      assert.equal(deploy.status('prod', 'api').state, 'pending');
      assert.match(code(() => deploy.scale('prod', 'api', 1)), /^not_found/);
      return waiting();
    }
    assert.equal(trigger.status, 'stopped');
    assert.deepEqual([deploy.status('prod', 'api').state, deploy.list()], ['stopped', []]);
    assert.equal(deploy.history('prod', 'api').length, 1);
    deploy.create({ ...api, image: 'a:2' });
    const { replicas, config } = deploy.status('prod', 'api');
    assert.deepEqual([replicas.desired, config], [1, { variables: [] }]);
    return completed('');
  });
  const [{ id, kind }] = (await host.run(author)).deployed;
  assert.deepEqual([kind, host.stateOf(id)], ['delete', 'deploying']);
  assert.throws(() => host.settle(id, 'running'), /settles as stopped/);
  const done = await host.settle(id, 'stopped').run(author);
  assert.equal(done.status, 'completed', done.lines.at(-1)?.message);
});

test('mistakes are errors with a code', async () => {
  const host = new Host({
    environments: ['dev', { name: 'closed', allowed: false }, { name: 'old', status: 'deleting' }],
    apps: ['api'],
    workerType: 'reports',
  });
  const run = await inside(host, () => {
    const create = (more) => () => deploy.create({ env: 'dev', app: 'api', image: 'a:1', ...more });
    for (const [act, expected] of [
      [() => deploy.create({}), /^invalid: .*env is missing/],
      [create({ image: undefined }), /^invalid: .*image is missing/],
      [create({ imge: 'x' }), /^invalid: .*no option "imge"/],
      [create({ register: 1 }), /^invalid: .*register/],
      [create({ replicas: 1_001 }), /^invalid: .*0 to 1000/],
      [create({ replicas: -1 }), /^invalid: .*0 to 1000/],
      [create({ replicas: 1.5 }), /^invalid: .*0 to 1000/],
      [create({ envVars: { A: 1 } }), /^invalid: .*A: is a number, not a text$/],
      [create({ envVars: new Map([['A', 'secret']]) }), /^invalid: .*not an object of variables/],
      [create({ envVars: null }), /^invalid: .*not an object of variables/],
      [create({ envVars: { 'A-B': 'x' } }), /^invalid: .*variable's name/],
      [create({ envVars: { A: '\0' } }), /^invalid: .*U\+0000/],
      [create({ envVars: { A: 'x'.repeat(600_000) } }), /^invalid: .*bytes together/],
      [create({ settings: [] }), /^invalid: settings: is not a JSON object/],
      [create({ settings: { x: 1n } }), /^invalid: .*written as JSON/],
      [create({ settings: { x: 'x'.repeat(70_000) } }), /^invalid: settings: exceeds/],
      [create({ settings: { port: 0 } }), /^invalid: settings.port/],
      [create({ settings: { port: '80' } }), /^invalid: settings.port/],
      [create({ settings: { health_path: 'healthz' } }), /^invalid: settings.health_path/],
      [create({ settings: { health_path: '/a b' } }), /^invalid: settings.health_path/],
      [create({ settings: { cpu: '1Gi' } }), /^invalid: settings.cpu/],
      [create({ settings: { cpu: '0' } }), /^invalid: settings.cpu/],
      [create({ settings: { memory: '256' } }), /^invalid: settings.memory/],
      [create({ settings: { command: 'run' } }), /^invalid: settings.command/],
      [create({ settings: { autoscale: { min: 5, max: 4 } } }), /^invalid: settings.autoscale/],
      [create({ settings: { run_as_user: 0 } }), /^invalid: settings.run_as_user/],
      [create({ settings: { deadline_s: 1 } }), /^invalid: settings.deadline_s/],
      [create({ app: 'Api' }), /^invalid: app/],
      [create({ app: '2048' }), /^invalid: app/],
      [create({ app: 'x'.repeat(51) }), /^invalid: app/],
      [create({ env: 'nowhere' }), /^not_found: .*environment `nowhere`/],
      [create({ app: 'web' }), /^not_found: .*app `web`/],
      [create({ env: 'closed' }), /^denied: .*`reports` may not deploy to `closed`/],
      [create({ env: 'old' }), /^conflict: .*being deleted/],
      [() => deploy.scale('dev', 'api'), /^invalid: .*replicas is missing/],
      [() => deploy.scale('dev', 'api', '2'), /^invalid: .*0 to 1000/],
      [() => deploy.scale('dev', 'api', 2), /^not_found/],
      [() => deploy.delete('dev'), /^invalid: .*app is missing/],
      [() => deploy.delete('closed', 'api'), /^denied/],
      [() => deploy.rollback('dev', 'api', 'v1'), /^invalid: .*object of options/],
      [() => deploy.rollback('dev', 'api', { version: undefined }), /^invalid: .*nothing to go back to/],
      [() => deploy.rollback('dev', 'api', { version: 'v1', revision: 1 }), /^invalid: .*not both/],
      [() => deploy.rollback('dev', 'api', { revision: 0 }), /^invalid/],
      [() => deploy.status('dev', 'api'), /^not_found: .*deployment/],
      [() => deploy.list('nowhere'), /^not_found/],
      [() => deploy.history('dev', 'api', { limit: 101 }), /^invalid: .*1 to 100/],
    ]) {
      assert.match(code(act), expected, String(act));
    }
    const digest = `sha256:${'0a'.repeat(32)}`;
    for (const image of ['a:', 'A/b', 'a b', '/a', 'a//b', 'a..b', 'http://a/b', 'a@sha256:0', 'a:v1:v2', 'a\n', `a:${'x'.repeat(129)}`]) {
      assert.match(code(create({ image })), /^invalid: image/, image);
    }
    for (const image of ['api', 'a-b:v1', 'r.example.com:5000/acme/api', 'localhost/x:1', 'host:80/a', `a@${digest}`, `a/b:v1@${digest}`]) {
      assert.equal(code(create({ image })), 'no error', image);
    }
    for (const settings of [
      { port: 1, health_path: '/healthz?x=1', cpu: '0.5', memory: '1.5Gi', what_is_added_later: [] },
      { cpu: '250m', command: ['/app', '--flag'], autoscale: { min: 1, max: 100 }, run_as_user: 1_000, deadline_s: 5 },
    ]) {
      assert.equal(code(create({ settings })), 'no error');
    }
  });
  assert.equal(run.deployed.length, 9);
});

test('a run asks for a hundred changes and no more', async () => {
  await inside(new Host({ deployments: [{ ...api, image: 'a:1' }] }), () => {
    for (let n = 0; n < 100; n += 1) deploy.scale('prod', 'api', n);
    assert.match(code(() => deploy.delete('prod', 'api')), /^limit/);
    assert.equal(deploy.status('prod', 'api').replicas.desired, 99);
  });
});

test('of what was refused after all nothing stays', async () => {
  const host = new Host({
    environments: [{ name: 'prod', approval: true }],
    apps: ['web'],
    deployments: [{ ...api, image: 'a:1', replicas: 2 }],
  });
  const look = () => {
    const { state, version, revision, replicas } = deploy.status('prod', 'api');
    return [state, version, revision, replicas, deploy.history('prod', 'api').length];
  };
  const before = ['running', '1', 1, { desired: 2, ready: 2 }, 1];
  const [first, second] = (await inside(host, () => {
    deploy.create({ ...api, image: 'a:2', replicas: 5 });
    deploy.create({ ...api, app: 'web', image: 'web:1' });
    return waiting();
  })).deployed;
  host.settle(first.id, 'failed', 'rejected', 'rejected by ada').settle(second.id, 'failed', 'not_approved');
  await inside(host, () => {
    assert.deepEqual(look(), before);
    assert.match(code(() => deploy.status('prod', 'web')), /^not_found/);
    deploy.delete('prod', 'api');
    return waiting();
  });
  await inside(host.settle(first.id, 'failed', 'forbidden'), () => {
    assert.deepEqual(look(), before);
    deploy.scale('prod', 'api', 3);
    return waiting();
  });
  // Another change while one is under way: that one is still waited for.
  const other = new Host({ deployments: [{ ...api, id: 'd', image: 'a:2', before: ['a:1'], state: 'deploying', askedFor: true }] });
  await inside(other, () => {
    deploy.scale('prod', 'api', 9);
    return waiting();
  });
  await inside(other.settle('d', 'failed', 'conflict'), () => {
    assert.deepEqual(look(), ['deploying', '2', 2, { desired: 1, ready: 0 }, 2]);
    return waiting();
  });
  await inside(other.settle('d', 'failed', 'invalid'), () => {
    assert.deepEqual(look(), ['running', '1', 1, { desired: 1, ready: 1 }, 1]);
  });
});

test('what somebody else has asked for takes the place of what the run did', async () => {
  const host = new Host({ deployments: [{ ...api, id: 'd', image: 'a:1' }] });
  await inside(host, () => {
    deploy.create({ ...api, image: 'a:2' });
    return waiting();
  });
  await inside(host.settle('d', 'failed', 'superseded', 'revision 3'), () => {
    const { state, revision } = deploy.status('prod', 'api');
    assert.deepEqual([state, revision], ['deploying', 3]);
    assert.deepEqual(deploy.history('prod', 'api').map(({ outcome }) => outcome), [undefined, 'superseded', 'running']);
    deploy.delete('prod', 'api');
    return waiting();
  });
  await inside(host.settle('d', 'failed', 'superseded'), () => {
    assert.equal(deploy.status('prod', 'api').state, 'deploying');
  });
});

test('the context of a wake-up says more than its trigger', async () => {
  const host = new Host({ environments: ['prod'], apps: ['api', 'web'], context: { n: 1 } });
  const [first, second] = (await inside(host, () => {
    deploy.create({ ...api, image: 'a:1' });
    deploy.create({ ...api, app: 'web', image: 'a:1' });
    return waiting();
  })).deployed;
  host.settle(first.id, 'failed', 'rejected', 'rejected by ada').settle(second.id, 'running');
  const run = await host.run(skill(({ context, rawContext }) => completed('', { data: { context, rawContext } })));
  assert.deepEqual(run.data.context, { n: 1 });
  const { trigger, deployment_id, status, reason, message, env, app, revision, additional_completions } = run.data.rawContext;
  assert.deepEqual([trigger, deployment_id, status, reason], ['deployment_settled', first.id, 'failed', 'rejected']);
  assert.deepEqual([message, env, app, revision], ['rejected by ada', 'prod', 'api', null]);
  assert.deepEqual(additional_completions, [{
    trigger: 'deployment_settled', deployment_id: second.id, status: 'running', reason: null, message: null,
    ...api, app: 'web', revision: 1,
  }]);
});

test('pods have written lines', async () => {
  const of = (pod, line) => ({ pod, line });
  const long = 'ä'.repeat(9_000);
  const host = new Host({
    deployments: [
      { ...api, id: 'd', image: 'a:1', logs: [of('new', 'one'), of('old', 'before'), of('new', 'two'), of('new', 'three')] },
      { ...api, app: 'web', image: 'a:1', logs: ['first', long] },
      { ...api, app: 'old', image: 'a:1', state: 'stopped', logs: ['gone'] },
      { ...api, app: 'busy', image: 'a:1', logs: Array.from({ length: 25 }, (_, n) => of(`busy-${n}`, 'x'.repeat(60_000))) },
      { ...api, app: 'loud', image: 'a:1', logs: Array.from({ length: 1_500 }, () => 'x'.repeat(2_000)) },
    ],
  });
  await inside(host, () => {
    assert.deepEqual(deploy.logs('prod', 'api', { tail: 2 }), [of('new', 'two'), of('new', 'three'), of('old', 'before')]);
    assert.deepEqual(deploy.logs('prod', 'api').length, 4);
    // As much as fits, of characters and of lines.
    const [first, second] = deploy.logs('prod', 'web');
    assert.deepEqual(first, of('web-0', 'first'));
    assert.equal(second.line, `${'ä'.repeat(8_192)}…`);
    assert.deepEqual(deploy.logs('prod', 'old'), []);
    const busy = deploy.logs('prod', 'busy');
    assert.deepEqual([busy.length, busy.at(-1).pod], [20, 'busy-19']);
    assert.equal(deploy.logs('prod', 'loud', { tail: 1_000 }).length, Math.floor((1 << 20) / (2_000 + 'loud-0'.length)));
    assert.equal(deploy.logs('prod', 'loud').length, 100);
    deploy.create({ ...api, app: 'mine', register: true, image: 'a:1' });
    assert.match(code(() => deploy.logs('prod', 'mine')), /^not_found: .*mine in prod/);
    deploy.scale('prod', 'api', 2);
    return waiting();
  });
  // What has been written stays, until the test says otherwise.
  host.settle('d', 'running');
  await inside(host.logs('d', ['anew']), () => {
    assert.deepEqual(deploy.logs('prod', 'api'), [of('api-0', 'anew')]);
  });
});

test('the Kubernetes API answers what the test says, to what can be asked', async () => {
  const pods = { items: [{ metadata: { name: 'api-0' } }] };
  const host = new Host({
    environments: ['dev', { name: 'closed', allowed: false }],
    deployments: [{ env: 'far', app: 'api', image: 'a:1' }],
    kubernetes: { dev: { 'api/v1/pods': pods, 'api/v1/configmaps/big': { data: 'x'.repeat(1 << 20) } } },
    unreachable: ['far', 'farther'],
    workerType: 'reports',
  });
  host.kubernetes('dev', 'apis/apps/v1/replicasets?labelSelector=app%3Dapi', { items: [] });
  assert.throws(() => host.kubernetes('dev', 'version', {}), /is neither api\/v1/);
  assert.throws(() => host.logs('x', []), /no deployment x/);
  await inside(host, () => {
    const read = (path, env = 'dev') => () => deploy.kubernetes(env, path);
    assert.deepEqual(deploy.kubernetes('dev', 'api/v1/pods'), pods);
    assert.deepEqual(deploy.kubernetes('dev', 'apis/apps/v1/replicasets?labelSelector=app%3Dapi'), { items: [] });
    for (const path of ['api/v1/configmaps/a.b', 'apis/apps/v1/replicasets', 'api/v1/pods?watch=false', 'api/v1/pods/proxy']) {
      assert.match(code(read(path)), /^not_found: .*the test says/, path);
    }
    for (const path of [
      'api', 'api/v1', 'api/v2/pods', '/api/v1/pods', 'version', 'apis/apps', 'apis/apps/v1', 'apis//v1/deployments',
      'api/v1/', 'api/v1//x', 'api/v1/pods/', 'api/v1/../nodes', 'api/v1/pods/%2e%2e', 'api/v1/pods#x', 'api/v1/pods\n',
      'api/v1/namespaces', 'api/v1/namespaces/other/pods', 'api/v1/watch/pods', 'api/v1/pods?watch', 'api/v1/pods?watch=1',
      'api/v1/pods?limit=1&watch=true', 'api/v1/pods/x/log?follow=true', 'api/v1/pods/x/exec', 'api/v1/pods/x/portforward',
    ]) {
      assert.match(code(read(path)), /^invalid: path: /, path);
    }
    for (const path of ['api/v1/secrets', 'api/v1/secrets/x', 'api/v1/services/x/proxy', 'api/v1/services/x/proxy/admin']) {
      assert.match(code(read(path)), /^denied: /, path);
    }
    for (const [act, expected] of [
      [read(''), /^invalid: .*path is missing/],
      [read(7), /^invalid: .*path: 7 is not a text/],
      [read('api/v1/configmaps/big'), /^invalid: .*the answer has 10485\d\d bytes/],
      [read('api/v1/pods', 'nowhere'), /^not_found: .*environment `nowhere`/],
      [read('api/v1/pods', 'closed'), /^denied: .*`reports`/],
      [read('api/v1/pods', 'far'), /^unavailable: .*`far`/],
      [read('api/v1/pods', 'farther'), /^unavailable/],
      [() => deploy.logs('far', 'api'), /^unavailable/],
      [() => deploy.logs('far', 'other'), /^not_found: .*deployment/],
      [() => deploy.logs('nowhere', 'api'), /^not_found: .*environment/],
      [() => deploy.logs('closed', 'api'), /^denied/],
      [() => deploy.logs('dev'), /^invalid: .*app is missing/],
      [() => deploy.logs('dev', 'api', { tail: 0 }), /^invalid: .*1 to 1000/],
      [() => deploy.logs('dev', 'api', { tail: 1_001 }), /^invalid: .*1 to 1000/],
      [() => deploy.logs('dev', 'api', { tail: null }), /^invalid: .*1 to 1000/],
      [() => deploy.logs('dev', 'api', { lines: 5 }), /^invalid: .*no option "lines"/],
    ]) {
      assert.match(code(act), expected, String(act));
    }
  });
});

test('a deployment wakes whoever asked for it, and nobody else', async () => {
  const host = new Host({ deployments: [{ ...api, id: 'd', image: 'a:1', state: 'deploying' }] });
  const idle = await host.run(skill(() => waiting()));
  assert.equal(idle.code, 'nothing_to_wait_for');
  assert.equal(host.settle('d', 'failed', 'quota').stateOf('d'), 'failed');
  assert.throws(() => host.settle('x', 'running'), /no deployment x/);

  const mine = new Host({ deployments: [{ ...api, id: 'd', image: 'a:1', state: 'deploying', askedFor: true }] });
  assert.equal((await mine.run(skill(() => waiting()))).isWaiting, true);
  const woken = await mine.settle('d', 'running').run(skill(({ trigger }) => completed(trigger.deploymentId)));
  assert.equal(woken.summary, 'd');
});
