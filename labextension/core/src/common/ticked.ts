/** Sentences of ours with commands in them: what stands between backticks is drawn as code. */

import { h } from '../dom.js';
import { visible } from './text.js';

export function ticked(text: string, limit = 4000): DocumentFragment {
  const fragment = document.createDocumentFragment();
  visible(text, limit)
    .split(/`([^`\n]+)`/)
    .forEach((part, i) => part && fragment.append(i % 2 ? h('code', { class: 'nbe-command' }, part) : part));
  return fragment;
}
