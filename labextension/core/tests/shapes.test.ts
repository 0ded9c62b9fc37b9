import assert from 'node:assert/strict';
import { test } from 'node:test';
import { EMPTY, isFinal } from '../src/index.js';

test('a run that nobody told of yet is not over', () => {
  assert.equal(isFinal(EMPTY.state), false);
});
