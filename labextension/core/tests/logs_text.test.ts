import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sizeText, parseAnsi, parseBar, showControls, strip } from '../src/index.js';
import { rankRanges } from '../src/logs/lines.js';

function styles(text: string): [string, Record<string, unknown>][] {
  return parseAnsi(text).map(({ text, style }) => [
    text,
    Object.fromEntries(Object.entries(style ?? {}).filter(([, value]) => value !== undefined && value !== false))
  ]);
}

test('colours of 16, 256 and 16 million, and styles', () => {
  assert.deepEqual(styles('a\x1b[1;31mb\x1b[0mc'), [
    ['a', {}],
    ['b', { fg: 1, bold: true }],
    ['c', {}]
  ]);
  assert.deepEqual(styles('\x1b[92;100mx'), [['x', { fg: 10, bg: 8 }]]);
  assert.deepEqual(styles('\x1b[38;5;196mx'), [['x', { fg: 'rgb(255 0 0)' }]]);
  assert.deepEqual(styles('\x1b[48;5;244mx'), [['x', { bg: 'rgb(128 128 128)' }]]);
  assert.deepEqual(styles('\x1b[38;2;1;2;999mx'), [['x', { fg: 'rgb(1 2 255)' }]]);
  assert.deepEqual(
    styles('\x1b[3;4;7mx\x1b[23;24mx\x1b[27mx').map(([, style]) => style),
    [{ italic: true, underline: true, inverse: true }, { inverse: true }, {}]
  );
  assert.deepEqual(styles('\x1b[mx'), [['x', {}]]);
});

test('other escape sequences leave nothing behind', () => {
  assert.equal(
    strip('a\x1b[2Kb\x1b[?25lc\x1b]0;title\x07d\x1b]8;;http://x\x1b\\e\x1b]8;;\x1b\\f\x1b(Bg\x1bMh\x1b'),
    'abcdefgh'
  );
});

test('a bomb of escapes makes few spans, and an endless one hides no more than a bit', () => {
  const bomb = Array.from({ length: 20_000 }, (_, index) => `\x1b[3${index % 8}mx`).join('');
  assert.ok(parseAnsi(bomb).length <= 1001);
  assert.equal(
    parseAnsi(bomb)
      .map(span => span.text)
      .join(''),
    'x'.repeat(20_000)
  );
  assert.equal(strip(`\x1b]${'a'.repeat(5000)}`).length, 5000 - 4096);
  assert.ok(strip(`\x1b[${'1;'.repeat(5000)}m`).length > 1000);
});

test('what would hide or turn the text round is spelt out', () => {
  assert.equal(showControls('a\u202eb\u200bc\x07d\x9be\ufeff\u2066'), 'a\\u202eb\\u200bc\\x07d\\x9be\\ufeff\\u2066');
  assert.equal(showControls('\u{e0041}x\u00adx'), '\\u{e0041}x\\xadx');
  assert.equal(showControls('tab\there, 👨‍👩‍👧 and ümläuts, 漢字'), 'tab\there, 👨‍👩‍👧 and ümläuts, 漢字');
  assert.equal(showControls('pay\u200dpal'), 'pay\\u200dpal');
});

test('bars of tqdm, with and without a total', () => {
  assert.deepEqual(parseBar('desc:  42%|####      | 42/100 [00:01<00:02, 30it/s, loss=1]'), {
    label: 'desc',
    fraction: 0.42,
    done: 42,
    total: 100,
    detail: '00:01<00:02, 30it/s, loss=1'
  });
  assert.deepEqual(parseBar('  0%|          | 0/3 [00:00<?, ?it/s]')?.fraction, 0);
  const download = parseBar('model.safetensors: 45%|████▌     | 1.2G/2.4G [00:10<00:12, 98MB/s]');
  assert.deepEqual([download?.fraction, download?.done, download?.total], [0.5, 1.2e9, 2.4e9]);
  assert.deepEqual(parseBar('42it [00:01, 30it/s]'), {
    label: '',
    fraction: undefined,
    done: 42,
    total: undefined,
    detail: '00:01, 30it/s'
  });
  assert.equal(parseBar('train: 42it [00:01, 30it/s]')?.label, 'train');
});

test('bars of rich, pip and Keras', () => {
  assert.deepEqual(parseBar('Working... ━━━━━━━━━━━╸━━━━━  42% 0:00:01'), {
    label: 'Working...',
    fraction: 0.42,
    done: 42,
    total: 100,
    detail: '0:00:01'
  });
  assert.deepEqual(parseBar('42/100 ━━━━━━━━━━━━━━ 1s 30ms/step - loss: 1.0')?.detail, '1s 30ms/step - loss: 1.0');
  assert.equal(parseBar('  50/100 [=====>......] - ETA: 1s')?.fraction, 0.5);
});

test('lines that are no bars are none, however they look, and are known at once', () => {
  for (const line of [
    '',
    'loss 0.5',
    '42% done',
    'a|b|c 3/4',
    '[00:01]',
    `${'━'.repeat(499)}x`,
    `${'1/1 '.repeat(100)}`,
    `${'9%|'.repeat(150)}`
  ]) {
    assert.equal(parseBar(line), undefined, line);
  }
});

test('sizes and ranks are told shortly', () => {
  assert.deepEqual(
    [sizeText(12), sizeText(1500), sizeText(12_000_000), sizeText(2e9)],
    ['12 bytes', '1.5 kB', '12 MB', '2 GB']
  );
  assert.equal(rankRanges([3, 1, 0, 2, 7]), '0-3,7');
});
