/** Terminal colours in a line: SGR becomes styles, every other escape sequence is left out. */

/** A colour of the palette (0 to 15, the theme's own), or one of its own as CSS. */
export type Colour = number | string;

export interface Style {
  fg: Colour | undefined;
  bg: Colour | undefined;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
  inverse: boolean;
  strike: boolean;
}

export interface Span {
  text: string;
  /** Undefined where nothing differs from plain text. */
  style: Style | undefined;
}

/** A line with more changes of style than this is a bomb; the rest of it is plain. */
const MAX_SPANS = 1000;

/** CSI; OSC, DCS and other strings with their bounded bodies; two-byte sequences; a lone ESC. CSI's parameters and end are groups. */
const ESCAPE =
  /\x1b(?:\[([0-?]{0,256})[ -/]{0,8}([@-~])|[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|[ -/]{1,8}[0-~]|[0-OQ-WYZ\\`-~])?/g;

/** The text without any escape sequence. */
export function strip(text: string): string {
  return text.includes('\x1b') ? text.replace(ESCAPE, '') : text;
}

export function parseAnsi(text: string): Span[] {
  if (!text.includes('\x1b')) {
    return [{ text, style: undefined }];
  }
  const spans: Span[] = [];
  let style: Style | undefined;
  let at = 0;
  const add = (part: string): void => {
    const last = spans.at(-1);
    if (last !== undefined && last.style === style) {
      last.text += part;
    } else if (part !== '') {
      spans.push({ text: part, style });
    }
  };
  ESCAPE.lastIndex = 0;
  for (let match = ESCAPE.exec(text); match !== null; match = ESCAPE.exec(text)) {
    add(text.slice(at, match.index));
    at = ESCAPE.lastIndex;
    if (match[2] === 'm') {
      style = spans.length < MAX_SPANS ? applySgr(style, match[1]!) : undefined;
    }
  }
  add(text.slice(at));
  return spans;
}

const PLAIN: Style = {
  fg: undefined,
  bg: undefined,
  bold: false,
  dim: false,
  italic: false,
  underline: false,
  inverse: false,
  strike: false
};

type Flag = 'bold' | 'dim' | 'italic' | 'underline' | 'inverse' | 'strike';

const ON: Record<number, Flag> = { 1: 'bold', 2: 'dim', 3: 'italic', 4: 'underline', 7: 'inverse', 9: 'strike' };
const OFF: Record<number, Flag[]> = {
  21: ['bold'],
  22: ['bold', 'dim'],
  23: ['italic'],
  24: ['underline'],
  27: ['inverse'],
  29: ['strike']
};

function applySgr(before: Style | undefined, parameters: string): Style | undefined {
  let style = { ...(before ?? PLAIN) };
  const codes = parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i]!;
    if (code === 0) {
      style = { ...PLAIN };
    } else if (code === 38 || code === 48) {
      const [colour, used] = extendedColour(codes, i + 1);
      style[code === 38 ? 'fg' : 'bg'] = colour;
      i += used;
    } else if (code in ON) {
      style[ON[code]!] = true;
    } else if (code in OFF) {
      OFF[code]!.forEach(flag => (style[flag] = false));
    } else {
      setColour(style, code);
    }
  }
  return isPlain(style) ? undefined : style;
}

function setColour(style: Style, code: number): void {
  if (code >= 30 && code <= 37) {
    style.fg = code - 30;
  } else if (code >= 90 && code <= 97) {
    style.fg = code - 82;
  } else if (code >= 40 && code <= 47) {
    style.bg = code - 40;
  } else if (code >= 100 && code <= 107) {
    style.bg = code - 92;
  } else if (code === 39) {
    style.fg = undefined;
  } else if (code === 49) {
    style.bg = undefined;
  }
}

/** The colour after a 38 or 48, and how many codes it took: `5;n`, or `2;r;g;b`. */
function extendedColour(codes: number[], at: number): [Colour | undefined, number] {
  const byte = (index: number): number => Math.min(255, Math.max(0, codes[index] || 0));
  if (codes[at] === 5) {
    return [paletteColour(byte(at + 1)), 2];
  }
  if (codes[at] === 2) {
    return [`rgb(${byte(at + 1)} ${byte(at + 2)} ${byte(at + 3)})`, 4];
  }
  return [undefined, 0];
}

/** xterm's 256 colours: 16 of the theme, a cube of 6 steps, 24 greys. */
function paletteColour(index: number): Colour {
  if (index < 16) {
    return index;
  }
  if (index >= 232) {
    const grey = 8 + 10 * (index - 232);
    return `rgb(${grey} ${grey} ${grey})`;
  }
  const step = (value: number): number => (value === 0 ? 0 : 55 + 40 * value);
  const cube = index - 16;
  return `rgb(${step(Math.floor(cube / 36))} ${step(Math.floor(cube / 6) % 6)} ${step(cube % 6)})`;
}

function isPlain(style: Style): boolean {
  return style.fg === undefined && style.bg === undefined && !Object.values(style).includes(true);
}
