/** Expressions that could block the page are refused or given up; those that people write go through. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isSpent, regexOf } from '../src/logs/regex.js';

const ENDLESS = [
  '(a+)+$', '(a*)*b', '(.*)*x', '(\\w+\\s?)*!', '(a|a)*$', '(a|aa)+$', '((ab)*)*c', '([a-z]+)*\\d', '(.+)+=', '(x+x+)+y',
  '^(([a-z])+.)+[A-Z]([a-z])+$', '(a+){2,}b', '(\\d+,?)+$', '(?:a+)+b', '(?<n>a+)+b', '(a?b?)*(a+)*c', '(\\s|.)*x', '(.*,)+x', '.*.*.*.*=', '\\s*\\s+\\s*x', 'a*a*.*b'
];
const FINE = [
  'loss', 'loss=(\\d+\\.\\d+)', 'step \\d+ .* loss', '(foo|bar)+', '(\\d+,)+', '(\\d+\\.){3}\\d+', '[\\w.]+@[\\w.]+', '^\\s*$',
  '(ab)*', '(?:ERROR|WARN).*timeout', '\\[rank(\\d+)\\]', '(a|b|c)*d', 'a{2,5}', '(x{2,3})+', '((?:ab)+)', '(/\\w+)+', '.*foo.*bar.*', '[(+)]+', '\\w+\\s+\\d+\\s+\\w+', '.*=.*,.*;.*'
];

test('a repetition that could match the same text in many ways is refused', () => {
  for (const source of ENDLESS) {
    assert.throws(() => regexOf(source, 'gi'), /can take for ever/, source);
  }
});

test('what people search for goes through, and finds the same', () => {
  for (const source of FINE) {
    const text = 'ERROR [rank3] step 12 loss=0.25 foo bar 1,2,3, a@b.c /x/y timeout abab';
    assert.deepEqual(text.match(regexOf(source, 'gi')), text.match(new RegExp(source, 'gi')), source);
  }
  assert.throws(() => regexOf('(', 'g'), SyntaxError);
});

test('one that looks at a line from many ends is given up after the first line that took long', () => {
  const regex = regexOf('x.*x.*x.*=', 'g');
  assert.equal(regex.test('xxx='), true);
  for (let length = 50; !isSpent(regex); length += 50) {
    regex.lastIndex = 0;
    assert.equal(regex.test('x'.repeat(length)), false);
  }
  regex.lastIndex = 0;
  assert.equal(regex.test('xxx='), false, 'it finds nothing any more');
});

test('with two repetitions the end of an endless line is not looked at', () => {
  const regex = regexOf('a+.*b', '');
  assert.equal(regex.test(`a${' '.repeat(100)}b`), true);
  assert.equal(regex.test(`a${' '.repeat(1_000_000)}b`), false);
  assert.equal(regexOf('a.*b', '').test(`a${' '.repeat(1_000_000)}b`), true);
});
