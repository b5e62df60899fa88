#!/usr/bin/env node
// Builds a JavaScript or TypeScript skill as a WebAssembly component.
//
//   node build.mjs --skill DIR --wit DIR --out FILE [--capabilities log,queue] [--tools DIR]
//
//   --skill         the skill's folder; its entry is `main` of package.json, else skill.{ts,js,mjs}
//   --wit           the contract: the .wit files of `eve:skill`
//   --out           where the component goes
//   --capabilities  what SKILL.md names: a JavaScript component imports all of its world, so its world
//                   has these and no others
//   --tools         the folder in whose node_modules componentize-js and esbuild are (else EVE_JS_TOOLS,
//                   this package's own folder, the skill's, ~/.cache/eve-horizon/js)
//
// Flow: esbuild bundles entry, SDK and the skill's dependencies into one source; in place of the SDK's
// platform.js it gets a module that imports the granted interfaces; componentize-js makes a component
// of that source and of a world generated for it.
//
// The last line of standard output is JSON: { out, bytes, imports }. Exit codes: 0 built, 1 the skill
// is at fault, 2 the call is, 3 the tools are missing.

import { mkdir, mkdtemp, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';

import { migrationsModule } from './src/migrations.js';

const SDK = dirname(fileURLToPath(import.meta.url));
/** Every skill has these: the SDK logs exceptions, and `types` has no functions. */
const ALWAYS = ['types', 'request', 'log'];
const WORLD = 'generated';
const TOOLS = ['@bytecodealliance/componentize-js@0.23.0', '@bytecodealliance/preview2-shim@0.25.0', 'esbuild@0.28.2'];

class Problem extends Error {
  constructor(exit, message) {
    super(message);
    this.exit = exit;
  }
}

function usage() {
  const options = Object.fromEntries(
    ['skill', 'wit', 'out', 'capabilities', 'tools'].map((name) => [name, { type: 'string' }]),
  );
  let values;
  try {
    ({ values } = parseArgs({ options }));
  } catch (error) {
    throw new Problem(2, error.message);
  }
  for (const name of ['skill', 'wit', 'out']) {
    if (!values[name]) throw new Problem(2, `--${name} is missing`);
  }
  return values;
}

/** Loads a tool from the first folder that has it, or whose parents do. */
async function tool(name, folders) {
  for (const folder of folders) {
    for (let at = resolve(folder); ; at = dirname(at)) {
      // By hand: `require` does not see packages that are for `import` only.
      const found = join(at, 'node_modules', name);
      if (existsSync(join(found, 'package.json'))) {
        const { exports, main } = JSON.parse(await readFile(join(found, 'package.json'), 'utf8'));
        let entry = exports?.['.'] ?? exports ?? main ?? 'index.js';
        while (typeof entry !== 'string') entry = entry.import ?? entry.node ?? entry.default;
        return import(pathToFileURL(join(found, entry)).href);
      }
      if (at === dirname(at)) break;
    }
  }
  throw new Problem(
    3,
    `${name} is not installed; looked in ${folders.join(', ')}\n` +
      `install it: npm install ${TOOLS.join(' ')} --prefix ~/.cache/eve-horizon/js`,
  );
}

async function entryOf(folder) {
  const manifest = join(folder, 'package.json');
  if (existsSync(manifest)) {
    let main;
    try {
      ({ main } = JSON.parse(await readFile(manifest, 'utf8')));
    } catch (error) {
      throw new Problem(1, `${manifest}: ${error.message}`);
    }
    if (main) return join(folder, main);
  }
  const names = ['skill.ts', 'skill.js', 'skill.mjs', 'src/skill.ts', 'src/skill.js'];
  const entry = names.map((name) => join(folder, name)).find(existsSync);
  if (!entry) throw new Problem(1, `${folder} has no skill.js, and no package.json that names its main`);
  return entry;
}

/** The contract with a world of its own: the interfaces as they are, and beside them the world. */
async function generateWorld(from, to, capabilities) {
  const names = (await readdir(from)).filter((name) => name.endsWith('.wit'));
  if (names.length === 0) throw new Problem(2, `${from} has no .wit files`);
  let contract = '';
  for (const name of names) {
    const text = await readFile(join(from, name), 'utf8');
    await writeFile(join(to, name), text);
    contract += text;
  }
  for (const name of capabilities) {
    if (!/^[a-z][a-z0-9-]*$/.test(name) || !new RegExp(`^interface ${name} \\{`, 'm').test(contract)) {
      throw new Problem(1, `capability ${JSON.stringify(name)}: the contract has no such interface`);
    }
  }
  const version = /^package (eve:skill@[0-9.]+);/m.exec(contract)?.[1];
  if (!version) throw new Problem(2, `${from} is not the contract eve:skill`);
  const imports = capabilities.map((name) => `    import ${name};\n`).join('');
  await writeFile(
    join(to, `${WORLD}.wit`),
    `package ${version};\n\nworld ${WORLD} {\n${imports}    export handler;\n}\n`,
  );
  return version.split('@')[1];
}

/** What stands in a component where src/platform.js stands in Node. */
function platformModule(capabilities, version) {
  const functional = capabilities.filter((name) => name !== 'types');
  const imports = functional.map((name, i) => `import * as i${i} from 'eve:skill/${name}@${version}';\n`);
  const entries = functional.map((name, i) => `  ${JSON.stringify(name)}: i${i},\n`);
  return `${imports.join('')}
const granted = {
${entries.join('')}};
export function platform(name) {
  const found = granted[name];
  if (found) return found;
  const val = \`SKILL.md does not name the capability \${name}\`;
  throw Object.assign(new Error(val), { payload: { tag: 'denied', val } });
}
`;
}

const entryModule = (entry) => `
import * as module from ${JSON.stringify(entry)};
import { execute } from '@eve-horizon/sdk/skill';

export const handler = {
  async run() {
    const { tag, val } = await execute(module.default ?? module.skill);
    if (tag === 'err') throw val;
    return val;
  },
};
`;

async function bundle(esbuild, folder, entry, capabilities, version) {
  const own = {
    '@eve-horizon/sdk': 'src/index.js',
    '@eve-horizon/sdk/skill': 'src/skill.js',
  };
  const plugin = {
    name: 'eve-sdk',
    setup(build) {
      build.onResolve({ filter: /^@eve-horizon\/sdk/ }, ({ path }) =>
        own[path]
          ? { path: join(SDK, own[path]) }
          : { errors: [{ text: `${path} is for tests: a component has no such module` }] },
      );
      build.onResolve({ filter: /\/platform\.js$/ }, ({ importer }) =>
        dirname(importer) === join(SDK, 'src') ? { path: 'platform', namespace: 'eve' } : undefined,
      );
      build.onLoad({ filter: /./, namespace: 'eve' }, () => ({ contents: platformModule(capabilities, version) }));
      build.onResolve({ filter: /\.sql$/ }, ({ path, resolveDir }) => ({
        path: resolve(resolveDir, path),
        namespace: 'migrations',
      }));
      build.onLoad({ filter: /./, namespace: 'migrations' }, async ({ path }) => {
        try {
          return { contents: await migrationsModule(path) };
        } catch (error) {
          return { errors: [{ text: error.message }] };
        }
      });
      build.onResolve({ filter: /^eve:/ }, ({ path }) => ({ path, external: true }));
      build.onResolve({ filter: /^node:/ }, ({ path }) => ({
        errors: [{ text: `${path} is Node's own: a skill has no files, no network and no processes` }],
      }));
    },
  };
  try {
    const built = await esbuild.build({
      stdin: { contents: entryModule(entry), resolveDir: folder, sourcefile: 'entry.js' },
      // Names in stack traces, and so in logs, are the author's.
      keepNames: true,
      bundle: true,
      write: false,
      format: 'esm',
      platform: 'neutral',
      mainFields: ['module', 'main'],
      conditions: ['worker', 'import'],
      target: 'es2022',
      loader: { '.txt': 'text', '.md': 'text' },
      absWorkingDir: folder,
      logLevel: 'silent',
      plugins: [plugin],
    });
    return built.outputFiles[0].text;
  } catch (error) {
    if (!error.errors) throw error;
    const shown = await esbuild.formatMessages(error.errors, { kind: 'error', color: false });
    throw new Problem(1, shown.join('').trim());
  }
}

async function main() {
  const values = usage();
  const folder = resolve(values.skill);
  const out = resolve(values.out);
  const entry = await entryOf(folder);
  const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'eve-horizon', 'js');
  const folders = [values.tools, process.env.EVE_JS_TOOLS, SDK, folder, cache].filter(Boolean);
  const esbuild = await tool('esbuild', folders);
  const { componentize } = await tool('@bytecodealliance/componentize-js', folders);

  const named = (values.capabilities ?? '').split(',').map((name) => name.trim()).filter(Boolean);
  const capabilities = [...new Set([...ALWAYS, ...named.sort()])];
  const work = await mkdtemp(join(tmpdir(), 'eve-build-js-'));
  try {
    const wit = join(work, 'wit');
    await mkdir(wit);
    const version = await generateWorld(resolve(values.wit), wit, capabilities);
    const source = await bundle(esbuild, folder, entry, capabilities, version);
    let built;
    try {
      // Random numbers and clocks stay: without them every run repeats the same ones.
      built = await componentize(source, {
        sourceName: 'skill.js',
        witPath: wit,
        worldName: WORLD,
        disableFeatures: ['http', 'fetch-event'],
      });
    } catch (error) {
      throw new Problem(1, `making the component failed: ${error.message ?? error}`);
    }
    await mkdir(dirname(out), { recursive: true });
    // By rename: whoever reads the old file keeps what it opened.
    const staged = `${out}.${process.pid}.new`;
    await writeFile(staged, built.component);
    await rename(staged, out);
    const imports = [...new Set(built.imports.map(([name]) => name))];
    console.log(JSON.stringify({ out, bytes: built.component.length, imports }));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

main().catch((error) => {
  if (!(error instanceof Problem)) throw error;
  console.error(`build.mjs: ${error.message}`);
  process.exitCode = error.exit;
});
