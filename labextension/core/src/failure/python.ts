/** Python source in colours: tokens by one expression, enough for a line of a traceback; not a parser. */

import { h } from '../dom.js';
import { visible } from '../common/text.js';

const KEYWORDS = new Set(
  (
    'False None True and as assert async await break case class continue def del elif else except finally for from global if import in is ' +
    'lambda match nonlocal not or pass raise return try while with yield'
  ).split(' ')
);

const TOKEN =
  /(?<comment>#.*)|(?<string>\b[rbfuRBFU]{0,2}(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|["'](?:\\.|[^"'\\\n])*["']?)|(?<number>\b(?:0[xXoObB][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?j?)\b)|(?<call>\b[A-Za-z_]\w*(?=\s*\())|(?<name>\b[A-Za-z_]\w*)|(?<decorator>^\s*@[\w.]+)/gm;

const MAX_LENGTH = 2000;

/** Make elements of a line of Python; text of a stranger stays text. */
export function highlight(source: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  const text = visible(source, MAX_LENGTH);
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    const kind = kindOf(match);
    if (kind) {
      fragment.append(text.slice(end, match.index), h('span', { class: `nbe-py-${kind}` }, match[0]));
      end = match.index + match[0].length;
    }
  }
  fragment.append(text.slice(end));
  return fragment;
}

function kindOf(match: RegExpMatchArray): string {
  const groups = match.groups ?? {};
  if (KEYWORDS.has(match[0])) {
    return 'keyword';
  }
  return ['comment', 'string', 'number', 'call', 'decorator'].find(kind => groups[kind] !== undefined) ?? '';
}
