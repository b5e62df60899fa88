import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Host } from '@eve-horizon/sdk/testing';

import skill from './skill.js';

test('counts words', async () => {
  const run = await new Host({ context: { text: 'one two  three' } }).run(skill);
  assert.equal(run.summary, '3 words');
  assert.deepEqual(run.data, { words: 3 });
  assert.deepEqual(run.lines[0].fields, { words: '3' });
});

test('says what is missing', async () => {
  const run = await new Host().run(skill);
  assert.deepEqual(run.failure, { kind: 'permanent', message: 'the context has no text' });
});
