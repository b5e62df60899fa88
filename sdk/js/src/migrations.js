// `import migrations from './migrations/*.sql'`: the numbered files of a folder, as what db.migrate takes.
// For build.mjs and for tests in Node; a component has the text inside.

import { readFile, readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

const NAME = /^(\d+)_([A-Za-z0-9_-]+)\.sql$/;

/** The source of a module that has the migrations of a path as its default export. */
export async function migrationsModule(path) {
  return `export default ${JSON.stringify(await read(path))};\n`;
}

async function read(path) {
  const folder = dirname(path);
  const every = basename(path) === '*.sql';
  const files = every ? (await readdir(folder)).filter((name) => name.endsWith('.sql')) : [basename(path)];
  const migrations = [];
  for (const file of files) {
    const [, number, name] = NAME.exec(file) ?? [];
    if (!name) throw new Error(`${join(folder, file)}: migrations are named like 0001_what_it_does.sql`);
    migrations.push({ number: Number(number), name, sql: await readFile(join(folder, file), 'utf8') });
  }
  return migrations.sort((a, b) => a.number - b.number);
}
