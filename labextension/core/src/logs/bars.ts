/** Progress bars read from text, as tqdm and its like draw them. */

import type { Bar } from '../data.js';

/** `desc:  42%|####      | 42/100 [00:01<00:02, 30it/s, loss=1]`; sizes may be scaled, `1.2k/3.4M`. */
const TQDM =
  /^(.*?):?\s*(\d{1,3})%\|[^|]*\|\s*([\d.]+\s*[kKMGTPE]?i?B?)\s*\/\s*([\d.]+\s*[kKMGTPE]?i?B?)\s*(?:\[([^\]]*)\]?)?(.*)$/;
/** `desc: 42it [00:01, 30it/s]`, where the total is unknown. */
const COUNT = /^(?:(.*?):\s*)?([\d.]+[kKMGTPE]?)\s?([A-Za-z]{1,12}) \[(\d+:\d\d(?::\d\d)?, .*?)\]?$/;
/** `Working ━━━━╸   42% 0:00:01`, rich's, and Keras's `42/100 ━━━━ 1s 30ms/step - loss: 1`. */
const RICH = /^([^━╸╺]*)[━╸╺][━╸╺ ]*\s(\d{1,3})%\s*(.*)$/;
const KERAS = /^(?:(.*?)\s)?(\d+)\/(\d+)\s+(?:[━╸╺─][━╸╺─ ]*|\[[=>.\s]{5,}\])\s*(.*)$/;

/** Longer lines are none, and would cost the patterns too much. */
const MAX_CHARS = 500;
const SCALE: Record<string, number> = { k: 1e3, K: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };

/** The bar that a line draws, or undefined. */
export function parseBar(text: string): Bar | undefined {
  if (text.length > MAX_CHARS || !/\d/.test(text)) {
    return undefined;
  }
  const line = text.trim();
  return parseTqdm(line) ?? parseCount(line) ?? parseRich(line) ?? parseKeras(line);
}

function parseTqdm(line: string): Bar | undefined {
  const match = line.includes('%|') ? TQDM.exec(line) : null;
  if (match === null) {
    return undefined;
  }
  const [, label, percent, done, total, inside, after] = match;
  const totalCount = count(total!);
  const doneCount = count(done!);
  const detail = [inside, after].map(part => part?.trim() ?? '').filter(part => part !== '');
  const fraction = totalCount > 0 ? doneCount / totalCount : Number(percent) / 100;
  return {
    label: label!.trim(),
    fraction: clip(fraction),
    done: doneCount,
    total: totalCount,
    detail: detail.join(' ')
  };
}

function parseCount(line: string): Bar | undefined {
  const match = line.endsWith(']') ? COUNT.exec(line) : null;
  if (match === null) {
    return undefined;
  }
  const [, label = '', done, , detail] = match;
  return { label: label.trim(), fraction: undefined, done: count(done!), total: undefined, detail: detail! };
}

function parseRich(line: string): Bar | undefined {
  const match = RICH.exec(line);
  if (match === null) {
    return undefined;
  }
  const percent = Number(match[2]);
  return {
    label: match[1]!.trim(),
    fraction: clip(percent / 100),
    done: percent,
    total: 100,
    detail: match[3]!.trim()
  };
}

function parseKeras(line: string): Bar | undefined {
  const match = KERAS.exec(line);
  if (match === null) {
    return undefined;
  }
  const [, label = '', done, total, detail] = match;
  const fraction = Number(total) > 0 ? clip(Number(done) / Number(total)) : undefined;
  return { label: label.trim(), fraction, done: Number(done), total: Number(total), detail: detail!.trim() };
}

function clip(fraction: number): number {
  return Math.min(1, Math.max(0, fraction));
}

/** `1.2k` is 1200. */
function count(text: string): number {
  const match = /^([\d.]+)\s*([kKMGTPE]?)/.exec(text);
  return match === null ? 0 : Number(match[1]) * (SCALE[match[2]!] ?? 1);
}
