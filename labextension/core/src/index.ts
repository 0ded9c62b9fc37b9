export * from './data.js';
export * from './dom.js';
export * from './model.js';
export * from './source.js';
export * from './view.js';
