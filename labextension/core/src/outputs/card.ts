/** One output of a rank: picks the richest form that can be shown safely, and offers to copy or save it. */

import { h } from '../dom.js';
import type { Output } from '../model.js';
import { HtmlFrame } from './html.js';
import { visible } from '../common/text.js';

const MAX_TEXT = 100_000;

const IMAGES: Record<string, string> = {
  'image/png': 'png',
  'image/jpeg': 'jpg',
  'image/gif': 'gif',
  'image/webp': 'webp',
  'image/svg+xml': 'svg'
};

/** Control sequences of terminals: colours have no place here. */
const SEQUENCES = /\u001b(?:\[[0-?]*[ -/]*[@-~]|\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|[@-_])/g;

export class OutputCard {
  readonly element: HTMLElement;
  private readonly body = h('div', { class: 'nbe-output-body' });
  private readonly actions = h('div', { class: 'nbe-output-actions' });
  private readonly image = h('img', { class: 'nbe-output-image', draggable: 'false' });
  private frame: HtmlFrame | undefined;
  private isDrawn = false;

  constructor(
    private output: Output,
    private readonly name: string
  ) {
    const attributes = { class: 'nbe-output', role: 'group', 'aria-label': name };
    this.element = h('div', attributes, this.body, this.actions);
    cards.set(this.element, this);
  }

  /** Draw for the first time: it came near the reader's view. */
  draw(): void {
    if (!this.isDrawn) {
      this.isDrawn = true;
      this.element.classList.add('nbe-drawn');
      this.fill();
    }
  }

  /** An update of the same display. */
  show(output: Output): void {
    if (output !== this.output) {
      this.output = output;
      if (this.isDrawn) {
        this.fill();
      }
    }
  }

  recolour(): void {
    this.frame?.recolour();
  }

  dispose(): void {
    this.frame?.dispose();
    this.element.remove();
  }

  private fill(): void {
    const { data, note } = this.output;
    const image = Object.keys(IMAGES).find(mime => imageUrl(mime, data[mime]) !== undefined);
    const html = textOf(data['text/html']);
    const notes = note ? [note] : [];
    let shown: HTMLElement | undefined;
    if (image) {
      shown = this.picture(image);
    } else if (html !== undefined) {
      shown = this.page(html);
      if (this.frame?.hadScripts) {
        notes.push('Scripts of an output do not run here.');
      }
    } else {
      shown = this.text(notes);
    }
    this.keep(shown, notes);
    this.actions.replaceChildren(...this.offers(image));
  }

  /** Put the contents in; what is there already stays where it is (a frame that is moved loads again). */
  private keep(shown: HTMLElement | undefined, notes: string[]): void {
    if (this.frame && this.frame.element !== shown) {
      this.frame.dispose();
      this.frame = undefined;
    }
    for (const child of [...this.body.children]) {
      if (child !== shown) {
        child.remove();
      }
    }
    if (shown && shown.parentNode !== this.body) {
      this.body.append(shown);
    }
    this.body.append(...notes.map(text => h('div', { class: 'nbe-output-note' }, visible(text, 1000))));
  }

  private picture(mime: string): HTMLElement {
    const { data, metadata } = this.output;
    const size = (metadata[mime] ?? metadata) as { width?: unknown; height?: unknown };
    this.image.src = imageUrl(mime, data[mime])!;
    this.image.alt = visible(textOf(data['text/plain']) ?? this.name, 200);
    for (const side of ['width', 'height'] as const) {
      const pixels = size[side];
      if (typeof pixels === 'number' && pixels > 0 && pixels < 10_000) {
        this.image[side] = pixels;
      } else {
        this.image.removeAttribute(side);
      }
    }
    return this.image;
  }

  private page(html: string): HTMLElement {
    if (this.frame) {
      this.frame.show(html);
    } else {
      this.frame = new HtmlFrame(html, this.name);
    }
    return this.frame.element;
  }

  private text(notes: string[]): HTMLElement | undefined {
    const { data } = this.output;
    const json = data['application/json'];
    const text = json === undefined ? plainOf(data) : jsonText(json);
    if (text === undefined) {
      const kinds = Object.keys(data).map(kind => visible(kind, 80));
      if (kinds.length) {
        notes.push(`Not drawn here: ${kinds.slice(0, 5).join(', ')}`);
      }
      return undefined;
    }
    return h('pre', { class: 'nbe-output-text', tabindex: '0' }, visible(text.replace(SEQUENCES, ''), MAX_TEXT));
  }

  private offers(image: string | undefined): HTMLElement[] {
    const { data } = this.output;
    const text = plainOf(data);
    const button = (word: string, title: string, act: () => Promise<void>): HTMLElement => {
      const onclick = (event: Event): void => void tellOf(event.currentTarget as HTMLElement, word, act());
      return h('button', { type: 'button', class: 'nbe-output-action', title, onclick }, word);
    };
    if (!image) {
      return text === undefined ? [] : [button('Copy', 'Copy as text', () => navigator.clipboard.writeText(text))];
    }
    const href = this.image.src;
    const download = `${this.name.replace(/[^\w]+/g, '-')}.${IMAGES[image]}`;
    const save = h('a', { class: 'nbe-output-action', href, download, title: 'Save the image' }, 'Save');
    const copy = button('Copy', 'Copy the image', () => copyImage(this.image));
    return typeof ClipboardItem === 'undefined' ? [save] : [copy, save];
  }
}

const cards = new WeakMap<Element, OutputCard>();

/** The card that an element is. */
export function cardOf(element: Element): OutputCard | undefined {
  return cards.get(element);
}

/** An image as a `data:` address, undefined for what is none. */
function imageUrl(mime: string, value: unknown): string | undefined {
  const text = textOf(value);
  if (text === undefined) {
    return undefined;
  }
  if (mime === 'image/svg+xml' && text.includes('<')) {
    return `data:${mime};base64,${base64(text)}`;
  }
  const packed = text.replace(/\s+/g, '');
  return /^[A-Za-z0-9+/]+=*$/.test(packed) ? `data:${mime};base64,${packed}` : undefined;
}

function base64(text: string): string {
  const bytes = new TextEncoder().encode(text);
  let binary = '';
  for (let i = 0; i < bytes.length; i += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  }
  return btoa(binary);
}

/** A text, or lines of one as notebooks save them. */
function textOf(value: unknown): string | undefined {
  if (Array.isArray(value) && value.every(line => typeof line === 'string')) {
    return value.join('');
  }
  return typeof value === 'string' ? value : undefined;
}

function plainOf(data: Output['data']): string | undefined {
  return textOf(data['text/plain']) ?? textOf(data['text/latex']) ?? textOf(data['text/markdown']);
}

function jsonText(value: unknown): string {
  try {
    return JSON.stringify(value, null, 2);
  } catch {
    return '(nested too deep)';
  }
}

/** Any image as a PNG on the clipboard: browsers take no other. */
async function copyImage(image: HTMLImageElement): Promise<void> {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth || 1, image.naturalHeight || 1];
  canvas.getContext('2d')!.drawImage(image, 0, 0);
  const png = new Promise<Blob>((resolve, reject) =>
    canvas.toBlob(blob => (blob ? resolve(blob) : reject(new Error('no image'))), 'image/png')
  );
  await navigator.clipboard.write([new ClipboardItem({ 'image/png': png })]);
}

async function tellOf(button: HTMLElement, word: string, act: Promise<void>): Promise<void> {
  button.textContent = await act.then(
    () => 'Copied',
    () => 'Not allowed'
  );
  window.setTimeout(() => (button.textContent = word), 1500);
}
