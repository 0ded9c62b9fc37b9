/** The status bar's item: how many runs go on; a click opens their list. */

import { Widget } from '@lumino/widgets';
import { h, isFinal, setText } from '@nb-elastic/core';
import { elasticIcon } from './icon.js';
import type { Links } from './links.js';

export class StatusItem extends Widget {
  private readonly _text = h('span', {});

  constructor(
    private readonly _links: Links,
    open: () => void
  ) {
    super({ node: h('button', { class: 'nbe-lab-status', onclick: open }) });
    elasticIcon.element({ container: this.node.appendChild(h('span', {})), stylesheet: 'statusBar' });
    this.node.append(this._text);
    _links.changed.connect(() => this.refresh());
    this.refresh();
  }

  /** True if there is a kernel to tell of. */
  get isWanted(): boolean {
    return this._links.all.some(link => link.isOpen);
  }

  refresh(): void {
    const count = this._links.rows().filter(row => !isFinal(row.state)).length;
    const text = count ? `${count} running` : 'idle';
    setText(this._text, text);
    this.node.title = `nb_elastic: ${text}. Click to see the runs.`;
    this.node.setAttribute('aria-label', this.node.title);
    this.node.dataset['running'] = String(count);
  }
}
