// Says what is in a CSV file: an orchestrator that cuts it into chunks, and its own children.

import { completed, log, permanent, queue, skill, waiting } from '@eve-horizon/sdk';

import { parse } from './csv.js';
import { columnsOf, empty, merge, profile } from './profile.js';

const CHUNK_ROWS = 1_000;

export default skill((request) => {
  const { rows, csv, delimiter = ',', chunk_rows: size = CHUNK_ROWS } = request.context;
  if (rows) return completed(`${rows.length} rows`, { data: profile(rows) });
  if (request.trigger.type === 'child_complete') return collect(csv, delimiter);

  if (typeof csv !== 'string') throw permanent('the context has no csv');
  if (!Number.isInteger(size) || size < 1 || size > 100_000) throw permanent('chunk_rows is not 1 to 100000');
  const [header, ...body] = parse(csv, delimiter);
  if (!header) throw permanent('the csv is empty');
  const uneven = body.findIndex((row) => row.length !== header.length);
  if (uneven >= 0) {
    throw permanent(`row ${uneven + 1} has ${body[uneven].length} values, and there are ${header.length} columns`);
  }
  if (body.length <= size) return report(header, profile(body), 0);

  const chunks = [];
  for (let at = 0; at < body.length; at += size) chunks.push(body.slice(at, at + size));
  queue.createMany(
    chunks.map((rows) => ({
      workerType: request.workerType,
      skill: 'csv-profile',
      context: { rows },
      replyToMe: true,
    })),
  );
  log.info('cut into chunks', { rows: body.length, chunks: chunks.length });
  return waiting();
});

function collect(csv, delimiter) {
  const children = queue.children();
  if (children.some((child) => child.isOpen)) return waiting();
  const [header] = parse(csv, delimiter);
  const failed = children.filter((child) => !child.output);
  for (const child of failed) {
    log.warn('a chunk is lost', { child: child.id, problem: child.ended.problem?.message });
  }
  if (failed.length === children.length) throw permanent('every chunk failed');
  const whole = children.flatMap((child) => child.output ?? []).reduce(merge, empty());
  return report(header, whole, failed.reduce((sum, child) => sum + child.context.rows.length, 0));
}

function report(header, whole, lost) {
  const columns = columnsOf(header, whole);
  return completed(`${whole.rows} rows, ${header.length} columns`, {
    data: { rows: whole.rows, columns, lost_rows: lost },
  });
}
