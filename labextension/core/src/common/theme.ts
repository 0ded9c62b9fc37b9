/** Whether the page is light or dark, kept on the dashboard's root as `data-theme`. */

/** Follow the page's theme. Returns a function that ends it. */
export function followTheme(root: HTMLElement): () => void {
  const system = window.matchMedia('(prefers-color-scheme: dark)');
  const apply = () => {
    const theme = (isDark(root) ?? system.matches) ? 'dark' : 'light';
    if (root.dataset.theme !== theme) {
      root.dataset.theme = theme;
    }
  };
  const observer = new MutationObserver(apply);
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, {
      attributes: true,
      attributeFilter: [
        'class',
        'style',
        'theme',
        'data-theme',
        'data-jp-theme-light',
        'data-jp-theme-name',
        'data-vscode-theme-kind'
      ]
    });
  }
  system.addEventListener('change', apply);
  apply();
  return () => {
    observer.disconnect();
    system.removeEventListener('change', apply);
  };
}

/** What JupyterLab, VS Code, Colab and others say of themselves, else how bright the page's ground is; undefined where nothing tells. */
function isDark(root: HTMLElement): boolean | undefined {
  const body = document.body;
  if (body.dataset.jpThemeLight) {
    return body.dataset.jpThemeLight === 'false';
  }
  if (body.dataset.vscodeThemeKind) {
    return !body.dataset.vscodeThemeKind.includes('light');
  }
  const named = document.documentElement.getAttribute('theme') ?? document.documentElement.dataset.theme;
  if (named === 'dark' || named === 'light') {
    return named === 'dark';
  }
  for (let element = root.parentElement; element; element = element.parentElement) {
    const [r, g, b, alpha = 1] = (getComputedStyle(element).backgroundColor.match(/[\d.]+/g) ?? []).map(Number);
    if (r !== undefined && g !== undefined && b !== undefined && alpha > 0.5) {
      return 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
    }
  }
  return undefined;
}
