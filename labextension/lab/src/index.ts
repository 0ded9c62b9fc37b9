/** The JupyterLab plugin. */

import type { JupyterFrontEndPlugin } from '@jupyterlab/application';
import { MIME } from '@nb-elastic/core';

const plugin: JupyterFrontEndPlugin<void> = {
  id: 'nb-elastic:plugin',
  autoStart: true,
  activate: () => console.debug(MIME)
};

export default plugin;
