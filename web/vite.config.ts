// Builds the page into dist, which is committed: `go build` needs no npm. The
// result depends on nothing but the sources and package-lock.json, so that a test
// can compare it with a fresh build.
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig, type Plugin } from 'vite';

// licences writes the notices of everything that ends up in the page.
function licences(): Plugin {
  const bundled = ['preact', '@xterm/xterm', '@xterm/addon-fit', '@novnc/novnc'];
  return {
    name: 'licences',
    generateBundle() {
      const parts = bundled.map((name) => {
        const folder = join(import.meta.dirname, 'node_modules', name);
        const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
        const file = readdirSync(folder).find((f) => /^licen[cs]e/i.test(f));
        if (!file) throw new Error(`${name} has no licence file`);
        const source = `Source: the npm package ${name}, version ${about.version}, unchanged.`;
        // noVNC names its licences in one file, and brings a copy of pako.
        const more = name === '@novnc/novnc' ? ['docs/LICENSE.MPL-2.0', 'docs/LICENSE.BSD-3-Clause', 'vendor/pako/LICENSE'] : [];
        const texts = [file, ...more].map((f) => readFileSync(join(folder, f), 'utf8').trim());
        return `${name} ${about.version} (${about.license})\n${source}\n\n${texts.join('\n\n')}\n`;
      });
      const head = 'UVBond is licensed under the Apache License 2.0. Its page contains the following.\n';
      this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: [head, ...parts].join(`\n${'-'.repeat(78)}\n\n`) });
    },
  };
}

export default defineConfig({
  base: './',
  build: {
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'], // the first that know light-dark()
    outDir: process.env.UVBOND_DIST ?? 'dist',
    emptyOutDir: true,
    modulePreload: { polyfill: false }, // it would be an inline script
    assetsInlineLimit: 0, // nothing as data: URLs
    reportCompressedSize: false,
    chunkSizeWarningLimit: 900,
  },
  plugins: [licences()],
});
