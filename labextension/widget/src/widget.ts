/** The anywidget door: a dashboard under a cell, wherever ipywidgets work. */

import { MIME } from '@nb-elastic/core';

export default { render({ el }: { el: HTMLElement }): void { el.textContent = MIME; } };
