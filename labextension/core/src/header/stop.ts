/** The Stop button: what it will do, the second click that kills, and what to do when nobody answers. */

import type { RunData } from '../data.js';
import { h, setText } from '../dom.js';
import { icon } from '../common/icons.js';
import { isFinal } from '../model.js';
import { firstLine } from '../common/text.js';

const ANSWER_MS = 2000;
const UNHEARD = 'The kernel does not answer while its cell is busy: use the notebook’s own interrupt button (■).';

export interface StopButton {
  readonly button: HTMLButtonElement;
  /** What became of it, in words; "" while there is nothing to say. */
  readonly message: string;
  update(): void;
  dispose(): void;
}

/** Make the button; `onMessage` is called when `message` changed between updates. */
export function stopButton(data: RunData, onMessage: () => void): StopButton {
  const label = h('span', {}, 'Stop');
  const button = h('button', { type: 'button', class: 'nbe-button nbe-stop', onclick: () => click() }, null);
  button.append(icon('stopping'), label);
  let clicks = 0;
  let timer: number | undefined;
  let isUnheard = false;

  const isAnswered = () =>
    data.stopping !== undefined || data.snapshot.state === 'stopping' || isFinal(data.snapshot.state);
  function click(): void {
    clicks += 1;
    data.stop(isStopping() && clicks > 1 ? 0 : (data.about?.grace_s ?? 5));
    window.clearTimeout(timer);
    timer = window.setTimeout(() => {
      isUnheard = !isAnswered();
      onMessage();
    }, ANSWER_MS);
    update();
    onMessage();
  }
  const isStopping = () => (clicks > 0 && data.stopping?.ok !== false) || data.snapshot.state === 'stopping';

  function update(): void {
    if (isAnswered()) {
      isUnheard = false;
    }
    if (data.snapshot.state === 'stopping') {
      clicks = Math.max(clicks, 1);
    }
    button.hidden = isFinal(data.snapshot.state) || data.link === 'saved' || data.about?.can_stop === false;
    button.classList.toggle('nbe-kill', isStopping());
    setText(label, isStopping() ? 'Kill now' : 'Stop');
    const does = isStopping()
      ? 'Sends SIGKILL to all ranks at once, without waiting'
      : stopWords(data.about?.grace_s ?? 5);
    if (button.title !== does) {
      button.title = does;
    }
  }
  return {
    button,
    get message() {
      if (button.hidden) {
        return '';
      }
      const answer = data.stopping;
      if (answer && !answer.ok) {
        return `Not stopped: ${firstLine(answer.text) || 'the kernel could not.'}`;
      }
      if (isUnheard) {
        return UNHEARD;
      }
      return isStopping() ? firstLine(answer?.text ?? '') || 'Stopping…' : '';
    },
    update,
    dispose: () => window.clearTimeout(timer)
  };
}

/** What a stop does, in words. */
export function stopWords(grace_s: number): string {
  return `Sends KeyboardInterrupt (SIGINT) to all ranks; after ${Number(grace_s.toPrecision(3))} s SIGTERM, then SIGKILL`;
}
