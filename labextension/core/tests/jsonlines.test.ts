import assert from 'node:assert/strict';
import { test } from 'node:test';
import { JsonLines, MAX_LINE_BYTES } from '../src/index.js';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

test('rows are the same however the file was cut', () => {
  const whole = bytes('{"a":"ü"}\n{"a":2}\n\n{"a":3}\n');
  for (let size = 1; size <= whole.length; size++) {
    const lines = new JsonLines();
    const rows: object[] = [];
    for (let at = 0; at < whole.length; at += size) {
      rows.push(...lines.push(whole.slice(at, at + size)));
    }
    assert.deepEqual(rows, [{ a: 'ü' }, { a: 2 }, { a: 3 }]);
  }
});

test('a line that is broken, no object or too long costs itself alone', () => {
  const lines = new JsonLines();
  assert.deepEqual(lines.push(bytes('{"a":\nnull\n[1]\n7\n\xff\n{"a":1}\n')), [{ a: 1 }]);
  assert.deepEqual(lines.push(new Uint8Array(MAX_LINE_BYTES).fill(32)), []);
  assert.deepEqual(lines.push(bytes('{"a":2}\n{"a":3}\n')), [{ a: 3 }]);
});

test('after a gap the line that it cut is dropped, and the next is right', () => {
  const lines = new JsonLines();
  assert.deepEqual(lines.push(bytes('{"a":1}\n{"a"')), [{ a: 1 }]);
  assert.deepEqual(lines.push(bytes('3}\n{"a":4}\n'), 10), [{ a: 4 }]);
});
