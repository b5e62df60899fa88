import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Host } from '@eve-horizon/sdk/testing';

import { parse } from './csv.js';
import skill from './skill.js';

const CSV = 'city,people\r\n"Paris, Île",2.1\nUlm,\n\nUlm,0.1\n"a ""b""\nc",7\n';

test('quotes, delimiters and line ends', () => {
  assert.deepEqual(parse(CSV, ','), [
    ['city', 'people'], ['Paris, Île', '2.1'], ['Ulm', ''], ['Ulm', '0.1'], ['a "b"\nc', '7'],
  ]);
});

test('a small file is read at once', async () => {
  const { data, summary } = await new Host({ context: { csv: CSV } }).run(skill);
  assert.equal(summary, '4 rows, 2 columns');
  const [city, people] = data.columns;
  assert.deepEqual([city.type, city.distinct, city.top[0]], ['text', 3, { value: 'Ulm', count: 2 }]);
  assert.deepEqual([people.type, people.empty, people.min, people.max], ['number', 1, 0.1, 7]);
});

test('a large file is cut, and put together again', async () => {
  const context = { csv: `n\n${Array.from({ length: 25 }, (_, n) => n).join('\n')}`, chunk_rows: 10 };
  const whole = new Host({ context });
  const { created, lines } = await whole.run(skill);
  assert.deepEqual(created.map((child) => child.context.rows.length), [10, 10, 5]);
  assert.deepEqual(lines[0].fields, { rows: '25', chunks: '3' });
  for (const child of created.slice(0, 2)) {
    whole.complete(child.id, (await new Host({ context: child.context }).run(skill)).data);
  }
  assert.equal((await whole.run(skill)).isWaiting, true);
  whole.fail(created[2].id, 'broken');
  const { data } = await whole.run(skill);
  assert.deepEqual([data.rows, data.lost_rows], [20, 5]);
  assert.deepEqual([data.columns[0].min, data.columns[0].max, data.columns[0].mean], [0, 19, 9.5]);
});

test('what is wrong with a file is said', async () => {
  for (const [context, message] of [
    [{}, /no csv/],
    [{ csv: '' }, /empty/],
    [{ csv: 'a,b\n1' }, /row 1 has 1 values, and there are 2 columns/],
    [{ csv: 'a', chunk_rows: 0 }, /chunk_rows/],
  ]) {
    const { failure } = await new Host({ context }).run(skill);
    assert.equal(failure.kind, 'permanent');
    assert.match(failure.message, message);
  }
});
