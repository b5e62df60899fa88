import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EveError, SqlError, completed, db, log, permanent, queue, retryable, skill, waiting } from '../src/index.js';
import { Host } from '../src/testing.js';

const run = (author, asked) => new Host(asked).run(skill(author));

test('a run sees what it was asked to do', async () => {
  const asked = { prompt: 'count', context: { text: 'a b' }, config: { x: 1 }, branch: 'main', attempt: 2 };
  const done = await run((request) => {
    assert.equal(request.prompt, 'count');
    assert.deepEqual(request.context, { text: 'a b' });
    assert.equal(request.context, request.context);
    assert.deepEqual(request.config, { x: 1 });
    assert.deepEqual(request.metadata, {});
    assert.equal(request.branch, 'main');
    assert.equal(request.repoUrl, undefined);
    assert.equal(request.attempt, 2);
    assert.deepEqual(request.triggers, [{ type: 'initial' }]);
    assert.equal(request.deadline.toISOString(), '2026-01-01T00:05:00.000Z');
    return completed('done', { data: [1, null], tokensUsed: 7, cost: 0.5 });
  }, asked);
  assert.equal(done.status, 'completed', done.failure?.message);
  assert.deepEqual([done.summary, done.data, done.tokensUsed, done.cost], ['done', [1, null], 7, 0.5]);
});

test('how a run fails', async () => {
  for (const [author, kind, message] of [
    [() => { throw permanent('no'); }, 'permanent', 'no'],
    [() => retryable('later'), 'retryable', 'later'],
    [async () => { throw new TypeError('boom'); }, 'retryable', 'TypeError: boom'],
    [() => { throw 'text'; }, 'retryable', 'threw "text"'],
    [() => undefined, 'permanent', 'the skill returned undefined instead of completed(…) or waiting()'],
    [() => completed('', { data: 1n }), 'permanent', /cannot be written as JSON/],
    [() => completed('', { tokens: 1 }), 'permanent', /there is no option "tokens"/],
    [() => completed('', { cost: -1 }), 'permanent', /makes no sense/],
    [() => waiting(), 'permanent', /nothing is outstanding/],
    [() => queue.get('x'), 'permanent', /there is no request x/],
  ]) {
    const failed = await run(author);
    assert.equal(failed.status, 'failed');
    assert.equal(failed.failure.kind, kind);
    assert.match(failed.failure.message, message instanceof RegExp ? message : new RegExp(`^${message.replace(/[()]/g, '\\$&')}$`));
  }
});

test('an exception is logged with its stack, and leaves nothing behind', async () => {
  const failed = await run(() => {
    log.info('before');
    queue.create({ workerType: 'general' });
    throw new RangeError('too far', { cause: new Error('the reason') });
  });
  assert.deepEqual(failed.created, []);
  assert.equal(failed.lines[1].level, 'error');
  assert.match(failed.lines[1].message, /RangeError: too far[^]*skill\.test\.js[^]*caused by Error: the reason/);
});

test('lines have levels and fields', async () => {
  const done = await run(() => {
    log.trace('t');
    log.warn('that took long', { seconds: 1.5, list: [1], nothing: undefined, big: 1n, error: new Error('x') });
    const loop = {};
    loop.loop = loop;
    log.error({ a: 1 }, { loop });
    return completed('');
  });
  assert.equal(done.lines[1].fields.seconds, '1.5');
  assert.equal(done.lines[1].fields.list, '[1]');
  assert.equal(done.lines[1].fields.nothing, 'undefined');
  assert.equal(done.lines[1].fields.big, '1');
  assert.match(done.lines[1].fields.error, /Error: x/);
  assert.equal(done.lines[2].message, '{"a":1}');
  assert.equal(done.lines[2].fields.loop, '[object Object]');
});

test('an orchestrator is woken by its children, once for each', async () => {
  const author = skill((request) => {
    if (request.trigger.type === 'initial') {
      for (const part of request.context.parts) {
        queue.create({ workerType: 'general', skill: 'x', context: { part }, replyToMe: true });
      }
      return waiting({ deadline: '7d' });
    }
    assert.deepEqual(request.context, { parts: ['a', 'b'] });
    assert.equal(request.rawContext.trigger, 'child_complete');
    const children = queue.children();
    if (children.some((child) => child.isOpen)) return waiting();
    return completed('all', { data: children.map((child) => child.output ?? child.ended.problem.code) });
  });
  const host = new Host({ context: { parts: ['a', 'b'] } });
  const first = await host.run(author);
  assert.equal(first.isWaiting, true, first.failure?.message);
  const [a, b] = first.created;
  assert.deepEqual([a.context, a.skill, a.replyToMe], [{ part: 'a' }, 'x', true]);
  await assert.rejects(host.run(author), /nothing has happened/);
  host.complete(a.id, { words: 3 });
  const second = await host.run(author);
  assert.equal(second.isWaiting, true, second.failure?.message);
  assert.deepEqual(second.triggers, [{ type: 'child_complete', requestId: a.id, status: 'completed' }]);
  host.fail(b.id, 'broken');
  assert.deepEqual((await host.run(author)).data, [{ words: 3 }, 'failed']);
  await assert.rejects(host.run(author), /has ended/);
});

test('questions and timers', async () => {
  const author = skill(({ trigger }) => {
    switch (trigger.type) {
      case 'initial':
        queue.ask('Go on?', { options: ['yes', 'no'], details: { n: 1 }, expiresIn: '1h' });
        queue.wakeAfter('90s', 'look');
        return waiting();
      case 'hitl_response':
        if (!trigger.expired) return completed(trigger.response);
        return waiting();
      case 'timer':
        queue.ask('Really?');
        return waiting();
    }
  });
  const host = new Host();
  const first = await host.run(author);
  const [question] = first.questions;
  assert.deepEqual([question.options, question.expiresIn, question.details], [['yes', 'no'], 3_600_000, { n: 1 }]);
  assert.deepEqual(first.timers, [{ name: 'look', delay: 90_000 }]);
  assert.equal((await host.expire(question.id).run(author)).isWaiting, true);
  const third = await host.fire('look').run(author);
  assert.equal((await host.answer(third.questions[0].id, 'yes').run(author)).summary, 'yes');
});

test('a retryable failure is tried again for the same reason', async () => {
  const host = new Host();
  const author = skill((request) => {
    if (request.attempt === 1) throw retryable('not yet');
    return completed(request.trigger.type);
  });
  assert.equal((await host.run(author)).failure.kind, 'retryable');
  assert.equal((await host.run(author)).summary, 'initial');
});

test('requests of a batch wait for one another', async () => {
  const host = new Host();
  const first = await host.run(
    skill(() => {
      queue.createMany([
        { workerType: 'general', prompt: 'a' },
        { workerType: 'general', prompt: 'b', blockedBy: [0], onFailure: 'run' },
        { workerType: 'general', prompt: 'c', blockedBy: [0, { id: 1, onFailure: 'hold' }], replyToMe: true },
      ]);
      return waiting();
    }),
  );
  const [a, b, c] = first.created;
  assert.deepEqual(c.blockedBy, [{ id: a.id, onFailure: 'cancel' }, { id: b.id, onFailure: 'hold' }]);
  assert.deepEqual([a, b, c].map((one) => host.statusOf(one.id)), ['pending', 'blocked', 'blocked']);
  host.fail(a.id);
  assert.deepEqual([b, c].map((one) => host.statusOf(one.id)), ['pending', 'cancelled']);
});

test('mistakes are errors with a code', async () => {
  const code = (act) => {
    try {
      act();
    } catch (error) {
      assert.ok(error instanceof EveError, String(error));
      return `${error.code}: ${error.message}`;
    }
    return 'no error';
  };
  const done = await run(() => {
    for (const [act, expected] of [
      [() => queue.create({}), /^invalid: .*workerType is missing/],
      [() => queue.create({ workerType: 'general', replyTo: true }), /^invalid: .*no option "replyTo"; there are .*replyToMe/],
      [() => queue.create({ workerType: 'general', context: [1] }), /^invalid: .*not a JSON object/],
      [() => queue.create({ workerType: 'general', context: { x: 1n } }), /^invalid: .*written as JSON/],
      [() => queue.create({ workerType: 'general', delay: 'soon' }), /^invalid: .*no length of time/],
      [() => queue.create({ workerType: 'general', priority: 1000 }), /^invalid: .*-100 to 100/],
      [() => queue.create({ workerType: 'general', blockedBy: ['nobody'] }), /^not_found/],
      [() => queue.createMany([{ workerType: 'a' }, { workerType: 'a', blockedBy: [7] }]), /^invalid: .*no earlier/],
      [() => queue.get('x'), /^not_found/],
      [() => queue.list({ statuses: ['done'] }), /^invalid/],
      [() => queue.wakeAfter(10, 'x'), /^invalid/],
      [() => queue.ask(''), /^invalid/],
      [() => queue.ask('?', { options: ['a', 'a'] }), /^invalid/],
      [() => db.query('x', 'SELECT 1', 7), /^invalid: .*not a list/],
      [() => db.query('x', 'SELECT $1', [() => 1]), /^invalid: .*\$1.*function/],
      [() => db.query('x', 'SELECT $1', [[1, 'a']]), /^invalid: .*elements of one type/],
      [() => db.query('x', 'SELECT $1', [new Date(NaN)]), /^invalid/],
    ]) {
      assert.match(code(act), expected);
    }
    return completed('');
  });
  assert.equal(done.status, 'completed', done.lines.at(-1)?.message);
  assert.deepEqual(done.created, []);
});

test('values go to the database and come back', async () => {
  const bytes = new Uint8Array([0, 255]);
  const at = new Date('2026-11-24T16:30:00.123Z');
  const big = 2n ** 62n;
  let seen;
  const values = {
    n: null, b: true, i: 7, neg: -1, f: 1.5, huge: 1e300, big, s: 'text', bytes, at, o: { a: [1] },
    list: [1, 2, null], mixed: [1, 1.5], texts: ['a'], none: [],
  };
  const done = await run(
    () => {
      const parameters = [...Object.values(values), db.json([1]), db.numeric('1.10'), db.uuid('0'), db.date('2026-11-24'), db.arrayOf('integer', [])];
      const rows = db.schema('s').query('SELECT', parameters);
      assert.deepEqual(rows, [values]);
      assert.deepEqual(rows.columns.map((column) => column.name), Object.keys(values));
      assert.equal(rows.affected, 1);
      return completed('');
    },
    { db: ({ parameters }) => ((seen = parameters), [values]) },
  );
  assert.equal(done.status, 'completed', done.lines.at(-1)?.message);
  assert.deepEqual(seen, [...Object.values(values), [1], '1.10', '0', '2026-11-24', []]);
});

test('a transaction, an expected number of rows, an SQL error, migrations', async () => {
  const database = ({ sql }) => {
    if (sql.startsWith('INSERT')) throw new SqlError({ code: '23505', message: 'duplicate', constraint: 'k' });
    return sql.startsWith('UPDATE') ? 0 : [{ x: 1 }];
  };
  const done = await run(
    () => {
      const steps = [{ name: 'first', sql: 'CREATE TABLE t ()' }, { number: 2, name: 'second', sql: '' }];
      assert.deepEqual(db.migrate('s', steps), [1, 2]);
      assert.deepEqual(db.migrate('s', steps), []);
      assert.throws(() => db.migrate('s', [{ name: 'first', sql: 'DROP' }]), { code: 'migration' });
      const [one, two] = db.transaction('s', ['SELECT 1', { sql: 'UPDATE', parameters: [1] }]);
      assert.deepEqual([one[0].x, two.affected], [1, 0]);
      assert.throws(() => db.execute('s', 'UPDATE', [], { expectedRows: 1 }), { code: 'row_count' });
      assert.throws(() => db.execute('s', 'INSERT'), { code: 'sql', sqlState: '23505', constraint: 'k' });
      return completed(String(db.execute('s', 'UPDATE')));
    },
    { db: database },
  );
  assert.equal(done.summary, '0', done.lines.at(-1)?.message);
  assert.deepEqual(done.statements[1], { schema: 's', sql: 'UPDATE', parameters: [1] });
});

test('outside a run the platform answers nothing', () => {
  assert.throws(() => queue.children(), /outside a run/);
});
