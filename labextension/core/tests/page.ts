/** What browser tests see as `nbe`: the core, the widget's source, and runs made up for them. */

export * from '../src/index.js';
export { widgetSource } from '../../widget/src/source.js';
export * from './fake.js';
export * from './scenes.js';
