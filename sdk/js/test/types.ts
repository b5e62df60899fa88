// Compiled, never run: the declarations fit how authors write.
import { EveError, completed, db, deploy, log, permanent, queue, retryable, skill, waiting } from '@eve-horizon/sdk';
import { Host } from '@eve-horizon/sdk/testing';

interface Context {
  text: string;
}

const author = skill<Context>(async (request) => {
  for (const trigger of request.triggers) {
    if (trigger.type === 'child_complete') log.info('ended', { id: trigger.requestId, status: trigger.status });
    if (trigger.type === 'deployment_settled' && trigger.status === 'failed') throw permanent(trigger.reason ?? '');
    if (trigger.type === 'hitl_response' && !trigger.expired) return completed(String(trigger.response));
  }
  // @ts-expect-error the context has no such field
  log.debug(request.context.words);
  // @ts-expect-error a mistyped option
  queue.create({ workerType: 'general', replyTo: true });
  // @ts-expect-error no length of time
  queue.wakeAfter('soon', 'x');
  const ids = queue.createMany([{ workerType: 'general' }, { workerType: 'general', blockedBy: [0], delay: '5m' }]);
  const notes = db.schema('notes');
  const rows = notes.query<{ id: number }>('SELECT id FROM notes WHERE at > $1', [new Date(), 1n, db.json([]), [1, null]]);
  db.transaction('notes', ['SELECT 1', ['SELECT $1', [1]], { sql: 'DELETE FROM t', expectedRows: 1 }]);
  const settings: deploy.Settings = { port: 8080, autoscale: { min: 1, max: 3 }, whatever_comes_next: true };
  const id: string = deploy.create({ env: 'dev', app: 'api', image: 'acme/api:v1', envVars: { A: 'b' }, settings });
  // @ts-expect-error a number is no environment variable
  deploy.create({ env: 'dev', app: 'api', image: 'acme/api:v1', envVars: { A: 1 } });
  // @ts-expect-error a deployment has an image
  deploy.create({ env: 'dev', app: 'api' });
  // @ts-expect-error a port is a number
  deploy.create({ env: 'dev', app: 'api', image: 'a', settings: { port: '8080' } });
  deploy.rollback('dev', 'api');
  deploy.rollback('dev', 'api', { version: 'v1' });
  // @ts-expect-error a version or a revision
  deploy.rollback('dev', 'api', { version: 'v1', revision: 1 });
  deploy.delete('dev', 'api') satisfies string;
  // @ts-expect-error it has one name
  deploy.remove('dev', 'api');
  deploy.environments().every((one) => one.allowed && !one.approval && one.status !== 'deleting');
  const { state, pods, config, replicas } = deploy.status('dev', 'api');
  if (state !== 'running') log.info('not there', { id, ...replicas, pods: pods.filter((pod) => pod.ready).length, ...config });
  deploy.history('dev', 'api', { limit: 5 })[0]?.outcome satisfies string | undefined;
  deploy.logs('dev', 'api', { tail: 5 }).map(({ pod, line }) => `${pod}: ${line}`) satisfies string[];
  // @ts-expect-error a mistyped option
  deploy.logs('dev', 'api', { lines: 5 });
  for (const event of deploy.kubernetes('dev', 'api/v1/events').items) log.info(event.message);
  // @ts-expect-error a path is missing
  deploy.kubernetes('dev');
  deploy.list('dev').filter((one) => !one.isSettled).map((one) => one.updatedAt.getTime());
  try {
    notes.execute('DELETE FROM notes');
  } catch (error) {
    if (error instanceof EveError && error.code === 'row_count') throw retryable('again', { cause: error });
    throw permanent('never');
  }
  return rows.affected + ids.length > 0 ? waiting({ deadline: '2h' }) : completed('', { data: rows[0]?.id });
});

const host = new Host({
  context: { text: 'a' },
  db: () => [{ id: 1 }],
  environments: ['dev', { name: 'prod', approval: true }],
  deployments: [{ env: 'dev', app: 'api', image: 'a:2', before: ['a:1'], state: 'failed', reason: 'quota', logs: ['a'] }],
  kubernetes: { dev: { 'api/v1/pods': { items: [] } } },
  unreachable: ['prod'],
});
const run = await host.run(author);
run.created[0]?.blockedBy[0]?.onFailure satisfies 'cancel' | 'run' | 'hold' | undefined;
for (const change of run.deployed) {
  if (change.kind === 'scale') change.replicas satisfies number;
  if (change.kind === 'rollback') change.version satisfies string | undefined;
  // @ts-expect-error only one that was to be created has an image
  change.image;
  host.settle(change.id, 'failed', 'crash_loop').stateOf(change.id) satisfies deploy.State;
  host.logs(change.id, ['a', { pod: 'api-1', line: 'b' }]).kubernetes('dev', 'api/v1/events', { items: [] });
}
// @ts-expect-error a line is of some pod
host.logs('id', [{ line: 'a' }]);
// @ts-expect-error nothing settles there
host.settle('id', 'pending');
