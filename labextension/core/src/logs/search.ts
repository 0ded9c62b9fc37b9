/** Finds the lines that match a query, plain text in bytes without decoding them. */

import { strip } from './ansi.js';
import { regexOf } from './regex.js';
import { decode } from './text.js';

export interface Query {
  text: string;
  isRegex: boolean;
  isCase: boolean;
}

const NEWLINE = 10;
const ESC = 27;

export interface Matcher {
  /** Tell which lines among bytes `start` to `end`, whole ones, match; lines count from 0. */
  find(bytes: Uint8Array, start: number, end: number, found: (line: number) => void): void;
  /** Where it matches in a text that is drawn; a flag `g` of its own. */
  readonly pattern: RegExp;
  /** What it tells lines by, where that is an expression. */
  readonly tester?: RegExp;
}

/** Throws a SyntaxError where a regular expression is none, or could block the page. */
export function matcherOf({ text, isRegex, isCase }: Query): Matcher {
  const flags = isCase ? 'g' : 'gi';
  if (!isRegex) {
    return new Needle(text, isCase, new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'), flags));
  }
  return new Pattern(regexOf(text, flags), regexOf(text, flags.replace('g', '')));
}

class Pattern implements Matcher {
  constructor(
    readonly pattern: RegExp,
    readonly tester: RegExp
  ) {}

  find(bytes: Uint8Array, start: number, end: number, found: (line: number) => void): void {
    const lines = decode(bytes.subarray(start, end)).split('\n');
    for (let line = 0; line < lines.length - 1; line++) {
      if (this.tester.test(strip(lines[line]!))) {
        found(line);
      }
    }
  }
}

/** Boyer-Moore-Horspool; ASCII letters fold, others are as they are. */
class Needle implements Matcher {
  private readonly needle: Uint8Array;
  private readonly fold = new Uint8Array(256);
  private readonly skip = new Uint16Array(256);
  /** Which two bytes follow one another in it. */
  private readonly pairs = new Uint8Array(65_536);
  /** Its bytes, each once. */
  private readonly distinct: readonly number[];
  /** No byte of it has another case. */
  private readonly isExact: boolean;
  private scratch = new Uint8Array();

  constructor(
    text: string,
    isCase: boolean,
    readonly pattern: RegExp
  ) {
    for (let byte = 0; byte < 256; byte++) {
      this.fold[byte] = !isCase && byte >= 65 && byte <= 90 ? byte + 32 : byte;
    }
    this.needle = new TextEncoder()
      .encode(text)
      .subarray(0, 60_000)
      .map(byte => this.fold[byte]!);
    this.needle.subarray(1).forEach((byte, index) => (this.pairs[this.needle[index]! * 256 + byte] = 1));
    this.distinct = [...new Set(this.needle)];
    this.isExact = isCase || !/[a-z]/i.test(text);
    const last = this.needle.length - 1;
    this.skip.fill(last + 1);
    for (let byte = 0; byte < 256; byte++) {
      const at = this.needle.lastIndexOf(this.fold[byte]!, last - 1);
      if (last > 0 && at >= 0) {
        this.skip[byte] = last - at;
      }
    }
  }

  find(bytes: Uint8Array, start: number, end: number, found: (line: number) => void): void {
    const text = bytes.subarray(start, end);
    if (!this.mayBeIn(text)) {
      return;
    }
    const next = text.indexOf(ESC) < 0 ? (from: number): number => this.next(text, from) : this.seenIn(text);
    let line = 0;
    let at = 0;
    for (let hit = next(0); hit >= 0; hit = next(at)) {
      for (
        let newline = text.indexOf(NEWLINE, at);
        newline >= 0 && newline < hit;
        newline = text.indexOf(NEWLINE, at)
      ) {
        line += 1;
        at = newline + 1;
      }
      found(line);
      at = text.indexOf(NEWLINE, hit) + 1;
      line += 1;
      if (at === 0) {
        return;
      }
    }
  }

  /**
   * What is searched is what is seen, and colours cut words: hits are those of the bytes that lie in no escape sequence,
   * and those across one, where what stands before and after it is a pair of the needle's.
   */
  private seenIn(text: Uint8Array): (from: number) => number {
    let plain = -2;
    let across = -2;
    return from => {
      if (plain !== -1 && plain < from) {
        plain = this.next(text, from);
        while (plain >= 0 && isInEscape(text, plain)) {
          plain = this.next(text, plain + 1);
        }
      }
      if (across !== -1 && across < from) {
        across = this.nextAcross(text, from);
      }
      return plain < 0 || (across >= 0 && across < plain) ? across : plain;
    };
  }

  /** Position of the next escape sequence that cuts the needle in two, or of more in its line. */
  private nextAcross(text: Uint8Array, from: number): number {
    let at = text.indexOf(ESC, from);
    while (at >= 0) {
      let end = escapeEnd(text, at + 1) + 1;
      while (text[end] === ESC) {
        end = escapeEnd(text, end + 1) + 1;
      }
      if (at > 0 && end < text.length && this.pairs[this.fold[text[at - 1]!]! * 256 + this.fold[text[end]!]!] === 1) {
        const start = text.lastIndexOf(NEWLINE, at) + 1;
        const stop = text.indexOf(NEWLINE, at);
        if (this.next(this.withoutEscapes(text.subarray(start, stop < 0 ? text.length : stop)), 0) >= 0) {
          return at;
        }
        end = stop < 0 ? text.length : stop;
      }
      at = text.indexOf(ESC, end);
    }
    return -1;
  }

  /** False where a byte of the needle is nowhere in the text: the engine finds a byte far faster than we find a word. */
  private mayBeIn(text: Uint8Array): boolean {
    return this.distinct.every(byte => {
      const isLetter = !this.isExact && byte >= 97 && byte <= 122;
      return text.indexOf(byte) >= 0 || (isLetter && text.indexOf(byte - 32) >= 0);
    });
  }

  private next(text: Uint8Array, from: number): number {
    const { needle, fold, skip } = this;
    const last = needle.length - 1;
    if (last === 0 && this.isExact) {
      return text.indexOf(needle[0]!, from);
    }
    const lastByte = needle[last]!;
    if (last === 0) {
      let at = from;
      while (at < text.length && (text[at]! | 32) !== lastByte) {
        at += 1;
      }
      return at < text.length ? at : -1;
    }
    for (let at = from + last; at < text.length;) {
      const byte = text[at]!;
      if (fold[byte] === lastByte) {
        let left = last - 1;
        while (left >= 0 && fold[text[at - last + left]!] === needle[left]) {
          left -= 1;
        }
        if (left < 0) {
          return at - last;
        }
      }
      at += skip[byte]!;
    }
    return -1;
  }

  private withoutEscapes(text: Uint8Array): Uint8Array {
    if (this.scratch.length < text.length) {
      this.scratch = new Uint8Array(text.length);
    }
    const out = this.scratch;
    let size = 0;
    for (let at = 0; at < text.length; at++) {
      const byte = text[at]!;
      if (byte !== ESC) {
        out[size++] = byte;
      } else {
        at = escapeEnd(text, at + 1);
      }
    }
    return out.subarray(0, size);
  }
}

/** Sequences longer than this are strings, of which nobody searches a part. */
const MAX_ESCAPE_BYTES = 32;

function isInEscape(text: Uint8Array, at: number): boolean {
  for (let start = at - 1; start >= 0 && start >= at - MAX_ESCAPE_BYTES && text[start] !== NEWLINE; start--) {
    if (text[start] === ESC) {
      return escapeEnd(text, start + 1) >= at;
    }
  }
  return false;
}

/** Index of the last byte of an escape sequence whose second byte is at `at`; it never takes a newline. */
function escapeEnd(text: Uint8Array, at: number): number {
  const kind = text[at];
  if (kind === 0x5b) {
    for (at += 1; at < text.length && text[at]! >= 0x20 && text[at]! < 0x40; at++);
    return text[at] === NEWLINE ? at - 1 : at;
  }
  if (kind === 0x5d || kind === 0x50 || kind === 0x5e || kind === 0x5f) {
    for (at += 1; at < text.length && text[at] !== 7 && text[at] !== ESC && text[at] !== NEWLINE; at++);
    if (text[at] === ESC && text[at + 1] === 0x5c) {
      return at + 1;
    }
    return text[at] === 7 ? at : at - 1;
  }
  return kind === undefined || kind === NEWLINE || kind === ESC ? at - 1 : at;
}
