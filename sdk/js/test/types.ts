// Compiled, never run: the declarations fit how authors write.
import { EveError, completed, db, log, permanent, queue, retryable, skill, waiting } from '@eve-horizon/sdk';
import { Host } from '@eve-horizon/sdk/testing';

interface Context {
  text: string;
}

const author = skill<Context>(async (request) => {
  for (const trigger of request.triggers) {
    if (trigger.type === 'child_complete') log.info('ended', { id: trigger.requestId, status: trigger.status });
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
  try {
    notes.execute('DELETE FROM notes');
  } catch (error) {
    if (error instanceof EveError && error.code === 'row_count') throw retryable('again', { cause: error });
    throw permanent('never');
  }
  return rows.affected + ids.length > 0 ? waiting({ deadline: '2h' }) : completed('', { data: rows[0]?.id });
});

const run = await new Host({ context: { text: 'a' }, db: () => [{ id: 1 }] }).run(author);
run.created[0]?.blockedBy[0]?.onFailure satisfies 'cancel' | 'run' | 'hold' | undefined;
