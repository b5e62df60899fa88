import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Host } from '@eve-horizon/sdk/testing';

import skill from './skill.js';

test('counts a text once', async () => {
  const statements = [];
  const db = ({ sql, parameters }) => {
    statements.push({ sql, parameters });
    return sql.startsWith('SELECT') ? [{ word: 'fish', times: 2 }] : 3;
  };
  const run = await new Host({ context: { text: 'One fish, two fish' }, db }).run(skill);
  assert.equal(run.summary, 'most often: fish (2)');
  assert.match(statements[0].sql, /ON CONFLICT DO NOTHING/);
  assert.deepEqual(statements[0].parameters[1], ['one', 'fish', 'two', 'fish']);
});

test('says what is missing', async () => {
  const run = await new Host().run(skill);
  assert.deepEqual(run.failure, { kind: 'permanent', message: 'the context has no text' });
});
