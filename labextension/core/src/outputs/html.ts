/** Someone's HTML in a frame of its own: no scripts, no network, no way out; it gets our colours, we its height. */

import { h } from '../dom.js';

const MAX_HEIGHT = 480;

/** Nothing is loaded but what the HTML brings itself. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; media-src data:";

/** What would run, load or lead away; the sandbox refuses most of it, too. */
const UNWANTED =
  'script, meta, base, link, iframe, frame, object, embed, portal, form[action], a animate, a set';

const COLOURS = ['fg', 'fg-muted', 'bg', 'bg-soft', 'line', 'accent', 'mono', 'sans'];

const STYLE = `
html { color-scheme: var(--scheme); background: transparent; }
body { margin: 0; color: var(--fg); background: transparent; font: 13px/1.5 var(--sans); overflow-wrap: break-word; }
a { color: var(--accent); }
pre, code { font-family: var(--mono); font-size: 12px; }
img, svg { max-width: 100%; height: auto; }
progress { accent-color: var(--accent); }
table { border: 0; border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px; border: 0; text-align: right; white-space: nowrap; }
thead { border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody tr:nth-child(even) { background: var(--bg-soft); }
caption, p { color: var(--fg-muted); text-align: left; }
`;

/** A frame that shows HTML; it must be put into the page to get colours. */
export class HtmlFrame {
  readonly element: HTMLIFrameElement;
  /** True where scripts were left out. */
  hadScripts = false;
  private readonly resizing = new ResizeObserver(() => this.fit());

  constructor(html: string, label: string) {
    this.element = h('iframe', {
      class: 'nbe-output-frame',
      sandbox: 'allow-same-origin',
      referrerpolicy: 'no-referrer',
      title: label,
      onload: () => this.adopt()
    });
    this.show(html);
  }

  show(html: string): void {
    const { body, isScripted } = cleaned(html);
    this.hadScripts = isScripted;
    const policy = `<meta http-equiv="Content-Security-Policy" content="${POLICY}">`;
    const head = `<head><meta charset="utf-8">${policy}<style>${STYLE}</style></head>`;
    this.element.srcdoc = `<!doctype html><html>${head}${body}</html>`;
  }

  /** Take the page's colours again. */
  recolour(): void {
    const page = this.element.contentDocument?.documentElement;
    const style = getComputedStyle(this.element);
    for (const name of page ? COLOURS : []) {
      page!.style.setProperty(`--${name}`, style.getPropertyValue(`--nbe-${name}`));
    }
    page?.style.setProperty('--scheme', style.colorScheme);
  }

  dispose(): void {
    this.resizing.disconnect();
    this.element.remove();
  }

  /** The document came: dress it, and hear of its size and its links. */
  private adopt(): void {
    const page = this.element.contentDocument;
    if (page?.body) {
      this.recolour();
      this.resizing.disconnect();
      this.resizing.observe(page.body);
      this.resizing.observe(this.element);
      page.addEventListener('click', open);
      this.fit();
    }
  }

  private fit(): void {
    const page = this.element.contentDocument?.documentElement;
    if (page) {
      const bar = page.scrollWidth > page.clientWidth ? 16 : 0;
      const height = `${Math.min(MAX_HEIGHT, Math.ceil(page.ownerDocument.body.offsetHeight + bar + 2))}px`;
      if (this.element.style.height !== height) {
        this.element.style.height = height;
      }
    }
  }
}

/** A link opens beside the page, and only one to the web. */
function open(event: Event): void {
  const link = (event.target as Element | null)?.closest?.('a, area');
  const href = link?.getAttribute('href') ?? link?.getAttribute('xlink:href') ?? '';
  if (link && !href.startsWith('#')) {
    event.preventDefault();
    if (/^https?:\/\//i.test(href)) {
      window.open(href, '_blank', 'noopener,noreferrer');
    }
  }
}

/** The HTML without what is not wanted in it; parsed in a document that runs and loads nothing. */
function cleaned(html: string): { body: string; isScripted: boolean } {
  const page = new DOMParser().parseFromString(html, 'text/html');
  const isScripted = page.querySelector('script') !== null;
  page.querySelectorAll(UNWANTED).forEach(element => element.remove());
  for (const element of page.querySelectorAll('*')) {
    for (const name of element.getAttributeNames()) {
      if (name.startsWith('on')) {
        element.removeAttribute(name);
      }
    }
  }
  const styles = [...page.head.querySelectorAll('style')].map(style => style.outerHTML).join('');
  page.body.insertAdjacentHTML('afterbegin', styles);
  return { body: page.body.outerHTML, isScripted };
}
