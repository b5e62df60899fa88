import { completed, log, permanent, skill } from '@eve-horizon/sdk';

export default skill((request) => {
  const { text } = request.context;
  if (typeof text !== 'string') throw permanent('the context has no text');
  const words = text.split(/\s+/).filter(Boolean).length;
  log.info('counted', { words });
  return completed(`${words} words`, { data: { words } });
});
