import { completed, db, log, permanent, skill } from '@eve-horizon/sdk';

import migrations from './migrations/*.sql';

export default skill((request) => {
  const { text } = request.context;
  if (typeof text !== 'string') throw permanent('the context has no text');
  const words = text.toLowerCase().split(/[\s.,;:!?"()]+/).filter(Boolean);
  const state = db.schema('{{schema}}');
  // Does nothing when nothing is new. A file in migrations/ stays as it is once it has run.
  state.migrate(migrations);
  // What is done in a schema stays, and a run that fails is tried again: that a text is counted once is what
  // the request's id is for.
  state.execute(
    `WITH first AS (INSERT INTO requests (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
     INSERT INTO words (word, times)
     SELECT word, count(*) FROM first, unnest($2::text[]) AS word GROUP BY word
     ON CONFLICT (word) DO UPDATE SET times = words.times + excluded.times`,
    [request.id, words],
  );
  const most = state.query('SELECT word, times FROM words ORDER BY times DESC, word LIMIT 3');
  log.info('counted', { words: words.length });
  const shown = most.map(({ word, times }) => `${word} (${times})`).join(', ');
  return completed(`most often: ${shown}`, { data: { most } });
});
