export * from './data.js';
export * from './model.js';
export * from './source.js';
