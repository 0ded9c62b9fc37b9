/**
 * Regular expressions of a reader, kept from blocking the page: JavaScript tries all ways to match, and nothing can interrupt it.
 * One that could try for ever is refused; one that could try long sees the beginnings of long lines, and is given up when it did.
 */

/** Most time for one line; it can only be found out afterwards. */
const LINE_MS = 250;
/** How much of a line is looked at, by the number of unbounded repetitions: the time grows with that power of it. */
const LIMITS = [Infinity, Infinity, 20_000];
const LEAST_LIMIT = 2000;
/** Repetitions up to so many times are few. */
const FEW = 8;

/** So many repetitions that take the same characters, one right after the other, are too many. */
const MAX_CHAIN = 3;
const REFUSED = 'repetitions of repetitions, of alternatives that begin alike, or many in a row can take for ever';

/** Throws a SyntaxError where it is no regular expression, or one that could take for ever. */
export function regexOf(source: string, flags: string): RegExp {
  const regex = new RegExp(source, flags);
  const { loops, isEndless } = studied(source);
  if (isEndless) {
    throw new SyntaxError(REFUSED);
  }
  return loops < 2 ? regex : new Bounded(source, flags, LIMITS[loops] ?? LEAST_LIMIT);
}

/** True for one that took too long on a line, and finds nothing any more. */
export function isSpent(regex: RegExp): boolean {
  return regex instanceof Bounded && regex.isSpent;
}

class Bounded extends RegExp {
  isSpent = false;

  constructor(
    source: string,
    flags: string,
    private readonly limit: number
  ) {
    super(source, flags);
  }

  override exec(text: string): RegExpExecArray | null {
    if (this.isSpent) {
      return null;
    }
    const began_ms = performance.now();
    const found = super.exec(text.length > this.limit ? text.slice(0, this.limit) : text);
    this.isSpent = performance.now() - began_ms > LINE_MS;
    return found;
  }
}

/** What is known of a group while its source is read. */
interface Group {
  /** What is repeated in it without bound: single characters' sources; undefined for more than a character. */
  loops: (string | undefined)[];
  /** Where each alternative begins; undefined for what is no plain character. */
  starts: (string | undefined)[];
  isAtStart: boolean;
  /** Its first piece and its last, where they stand there just once. */
  edges: string[];
  hasFirst: boolean;
  last: string | undefined;
  /** Repetitions in a row, the last of which is of this. */
  chain: number;
  link: string | undefined;
}

const TOKEN = /\\[\s\S]|\[(?:\\[\s\S]|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]|<\w+>))?|[)|]|[*+?]\??|\{\d+(?:,\d*)?\}\??|[\s\S]/g;

function fresh(): Group {
  return { loops: [], starts: [], isAtStart: true, edges: [], hasFirst: false, last: undefined, chain: 0, link: undefined };
}

function studied(source: string): { loops: number; isEndless: boolean } {
  const stack: Group[] = [fresh()];
  let loops = 0;
  let isEndless = false;
  let piece: string | undefined;
  let inner: Group | undefined;
  for (const [token] of source.matchAll(TOKEN)) {
    const group = stack.at(-1)!;
    if (!isQuantifier(token) && (piece !== undefined || inner !== undefined)) {
      group.link = undefined; // What stands there once parts the repetitions around it.
    }
    if (isQuantifier(token)) {
      if (isUnbounded(token)) {
        loops += 1;
        isEndless ||= inner !== undefined && isAmbiguous(inner);
        group.loops.push(inner ? undefined : piece);
        const isLinked = piece !== undefined && group.link !== undefined && overlap(piece, group.link);
        group.chain = isLinked ? group.chain + 1 : 1;
        group.link = piece;
        isEndless ||= group.chain >= MAX_CHAIN;
      }
      group.last = undefined;
      group.edges.length = Math.min(group.edges.length, group.hasFirst && piece === group.edges[0] ? 0 : 1);
      [piece, inner] = [undefined, undefined];
    } else if (token === '|') {
      group.isAtStart = true;
      group.link = undefined;
      [piece, inner] = [undefined, undefined];
    } else if (token.startsWith('(')) {
      begin(group, undefined);
      stack.push(fresh());
      [piece, inner] = [undefined, undefined];
    } else if (token === ')' && stack.length > 1) {
      inner = stack.pop()!;
      piece = undefined;
      stack.at(-1)!.loops.push(...inner.loops.map(() => undefined));
      stack.at(-1)!.last = undefined;
    } else {
      [piece, inner] = [token, undefined];
      begin(group, token);
      group.last = token;
    }
  }
  return { loops, isEndless };
}

function begin(group: Group, token: string | undefined): void {
  if (group.isAtStart) {
    group.starts.push(token !== undefined && isPlain(token) ? token : undefined);
    group.isAtStart = false;
  }
  if (!group.hasFirst) {
    group.hasFirst = true;
    group.edges = token === undefined ? [] : [token];
  }
}

/** Can what is repeated match the same text in more than one way? */
function isAmbiguous(inner: Group): boolean {
  const { loops, starts } = inner;
  const isAlike = starts.length > 1 && (starts.includes(undefined) || new Set(starts).size < starts.length);
  if (isAlike || !loops.length) {
    return isAlike;
  }
  // `(\d+,)+`: a character at its edge that none of its loops takes tells one turn from the next.
  const edges = [...inner.edges, ...(inner.last === undefined ? [] : [inner.last])].filter(isPlain);
  return starts.length > 1 || !edges.some(edge => loops.every(loop => loop !== undefined && !takes(loop, edge)));
}

/** Is there a character that both take? */
function overlap(a: string, b: string): boolean {
  return a === b || ASCII.some(character => takes(a, character) && takes(b, character));
}

const ASCII = Array.from({ length: 96 }, (_, i) => String.fromCharCode(i ? 31 + i : 9));

function takes(loop: string, edge: string): boolean {
  try {
    return new RegExp(`^(?:${loop})$`, 'is').test(edge.at(-1)!);
  } catch {
    return true;
  }
}

/** One certain character: a letter, or a mark that is escaped. */
function isPlain(token: string): boolean {
  return token.length === 1 ? !'.^$'.includes(token) : /^\\[^\w\s]$/.test(token);
}

function isQuantifier(token: string): boolean {
  return /^[*+?]\??$|^\{\d/.test(token);
}

function isUnbounded(token: string): boolean {
  const [, low, comma, high] = /^\{(\d+)(,?)(\d*)\}/.exec(token) ?? [];
  return low === undefined ? !token.startsWith('?') : comma ? high === '' || Number(high) > FEW : Number(low) > FEW * FEW;
}
