/** A rank's bytes as text that cannot lie: what would be invisible or turn the reading order round is spelt out. */

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** Controls but the tab, soft hyphen, bidi marks and overrides, zero-width characters, line separators, tags. */
const HIDDEN =
  /[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;
const MAY_HIDE = new RegExp(HIDDEN.source, 'u');
const JOINER = '\u200d';
const PICTURE = /\p{Extended_Pictographic}/u;

/** Broken UTF-8 becomes U+FFFD. */
export function decode(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** Write hidden characters as escapes, `\u202e` say; joined emoji stay. */
export function showControls(text: string): string {
  return MAY_HIDE.test(text) ? text.replace(HIDDEN, spell) : text;
}

function spell(hidden: string, ...rest: unknown[]): string {
  const at = rest[rest.length - 2] as number;
  const text = rest[rest.length - 1] as string;
  if (
    hidden === JOINER &&
    PICTURE.test(text.slice(at + 1, at + 3)) &&
    PICTURE.test(text.slice(Math.max(0, at - 3), at))
  ) {
    return hidden;
  }
  const code = hidden.codePointAt(0)!;
  if (code < 0x100) {
    return `\\x${code.toString(16).padStart(2, '0')}`;
  }
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, '0')}` : `\\u{${code.toString(16)}}`;
}

/** `12 MB`, decimal as files are told. */
export function sizeText(size: number): string {
  if (size < 1000) {
    return `${size} bytes`;
  }
  const unit = size < 1e6 ? 'kB' : size < 1e9 ? 'MB' : 'GB';
  const value = size / (unit === 'kB' ? 1e3 : unit === 'MB' ? 1e6 : 1e9);
  return `${value < 10 ? value.toFixed(1).replace(/\.0$/, '') : Math.round(value)} ${unit}`;
}
