/** The mark of nb_elastic: one dot fanning out to four. */

import { LabIcon } from '@jupyterlab/ui-components';

const SVG = `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="none" stroke="#616161" stroke-width="1.6">
    <path d="M6 12C12 12 12 4 17.5 4M6 12C12 12 12 9.3 17.5 9.3M6 12C12 12 12 14.7 17.5 14.7M6 12C12 12 12 20 17.5 20"/>
  </g>
  <g class="jp-icon3" fill="#616161">
    <circle cx="5" cy="12" r="3"/><circle cx="19" cy="4" r="2"/><circle cx="19" cy="9.3" r="2"/>
    <circle cx="19" cy="14.7" r="2"/><circle cx="19" cy="20" r="2"/>
  </g>
</svg>`;

export const elasticIcon = new LabIcon({ name: 'nb-elastic:runs', svgstr: SVG });
