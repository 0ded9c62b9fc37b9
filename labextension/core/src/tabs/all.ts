/** All parts at hand: for doors whose script may be large. */

import { metricsView } from '../charts/view.js';
import { tabsWith } from '../parts.js';

export const TABS = tabsWith(metricsView);
