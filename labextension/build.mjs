// Bundles the widget (one ES module and its style) into the Python package.
//   --tests  the core's tests for node, and the core as one script for tests in a browser, into build/
//   --debug  unminified
import { build } from 'esbuild';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { minify as squeeze } from 'terser';

const shared = { bundle: true, format: 'esm', target: 'es2022', logLevel: 'warning' };

if (process.argv.includes('--tests')) {
  rmSync('build', { recursive: true, force: true });
  const entryPoints = readdirSync('core/tests')
    .filter(name => name.endsWith('.test.ts'))
    .map(name => `core/tests/${name}`);
  await build({ ...shared, entryPoints, platform: 'node', outdir: 'build/tests', outExtension: { '.js': '.mjs' } });
  await build({
    ...shared,
    format: 'iife',
    globalName: 'nbe',
    entryPoints: ['core/tests/page.ts'],
    outfile: 'build/core.js'
  });
  await build({ ...shared, entryPoints: ['core/style/dashboard.css'], outfile: 'build/core.css' });
} else {
  const minify = !process.argv.includes('--debug');
  const out = '../nb_elastic/static';
  await build({ ...shared, minify, entryPoints: ['widget/src/widget.ts'], outfile: `${out}/widget.js` });
  await build({ ...shared, minify, entryPoints: ['core/src/charts/view.ts'], outfile: `${out}/charts.js` });
  await build({ ...shared, minify, entryPoints: ['core/style/dashboard.css'], outfile: `${out}/widget.css` });
  for (const file of minify ? [`${out}/widget.js`, `${out}/charts.js`] : []) {
    // What travels in every launch is squeezed once more: 2 kB less on the way.
    const { code } = await squeeze(readFileSync(file, 'utf8'), { module: true, ecma: 2020, compress: { passes: 3 } });
    writeFileSync(file, code);
  }
}
