// Module hooks for tests in Node: `@eve-horizon/sdk` is the package that this file is part of, and what
// build.mjs makes of `….sql`, `….txt` and `….md` is the same here.

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

import { migrationsModule } from './migrations.js';

const NAMES = {
  '@eve-horizon/sdk': './index.js',
  '@eve-horizon/sdk/testing': './testing.js',
};

export function resolve(specifier, context, next) {
  const path = NAMES[specifier];
  if (path) return { url: new URL(path, import.meta.url).href, format: 'module', shortCircuit: true };
  if (/\.(sql|txt|md)$/.test(specifier)) {
    return { url: new URL(specifier, context.parentURL).href, format: 'module', shortCircuit: true };
  }
  return next(specifier, context);
}

export async function load(url, context, next) {
  if (!/^file:.*\.(sql|txt|md)$/.test(url)) return next(url, context);
  const path = fileURLToPath(url);
  const source = url.endsWith('.sql')
    ? await migrationsModule(path)
    : `export default ${JSON.stringify(await readFile(path, 'utf8'))};\n`;
  return { format: 'module', source, shortCircuit: true };
}
