/** Copying text, also where the page may not use the clipboard (plain http, an embedded frame). */

import { h } from '../dom.js';

/** Returns false where the page could not copy. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text: string): boolean {
  const area = h('textarea', { style: 'position:fixed;opacity:0', 'aria-hidden': 'true' });
  area.value = text;
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  try {
    return document.execCommand('copy');
  } catch {
    return false;
  } finally {
    area.remove();
    if (before instanceof HTMLElement) {
      before.focus();
    }
  }
}

/** Copy, and say so on the button for a moment; its width stays. */
export async function copyFrom(button: HTMLElement, label: HTMLElement, text: string): Promise<void> {
  const did = await copyText(text);
  const before = (button.dataset.label ??= label.textContent ?? '');
  button.style.minWidth = `${button.offsetWidth}px`;
  label.textContent = did ? 'Copied' : 'Not copied';
  window.setTimeout(() => {
    label.textContent = before;
    button.style.minWidth = '';
  }, 1500);
}
