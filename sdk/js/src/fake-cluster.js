// What the clusters of a pretended organisation say: lines that pods have written, and answers of the
// Kubernetes API. They are what the test says, whatever becomes of a run.

import { json } from './contract.js';
import { refuse } from './fake.js';

const MOST_PODS = 20;
const LINE_BYTES = 16 << 10;
const ANSWER_BYTES = 1 << 20;

// Names in Kubernetes need no more; one way of writing a path is understood.
const SEGMENT = /^(?!\.+$)[A-Za-z0-9._:-]+$/;
const SESSIONS = ['exec', 'attach', 'portforward'];

/** What a path names in the namespace: kind, name, part. */
function read(plain) {
  const [root, ...below] = plain.split('/');
  if (!below.every((segment) => SEGMENT.test(segment))) return undefined;
  if (root === 'api' && below[0] === 'v1') return below.slice(1);
  return root === 'apis' && below.length >= 2 ? below.slice(2) : undefined;
}

/** Refuses what can be read nowhere. */
function checkPath(path) {
  const [plain, ...more] = path.split('?');
  const rest = read(plain);
  if (!rest) {
    refuse('invalid', `path: \`${path}\` is neither api/v1/… nor apis/GROUP/VERSION/…, such as api/v1/pods`);
  }
  const [kind, , part] = rest;
  if (kind === undefined || kind === 'namespaces') {
    refuse('invalid', `path: \`${path}\` names nothing in the namespace, as api/v1/pods does`);
  }
  const query = new URLSearchParams(more.join('?'));
  const wants = (name) => query.has(name) && !['false', '0'].includes(query.get(name).toLowerCase());
  if (kind === 'watch' || SESSIONS.includes(part) || wants('watch') || (part === 'log' && wants('follow'))) {
    refuse('invalid', `path: \`${path}\` is answered for as long as somebody listens: only what ends can be read`);
  }
  if (kind === 'secrets' || part === 'proxy' || rest.length > 3) {
    refuse('denied', `path: a viewer may not read \`${path}\``);
  }
}

/** As much of a line as is kept. */
function bounded(line) {
  const bytes = Buffer.from(line);
  if (bytes.length <= LINE_BYTES) return line;
  // As part of a stream: a character that is cut in two is left out.
  return `${new TextDecoder().decode(bytes.subarray(0, LINE_BYTES), { stream: true })}…`;
}

/** Everything that is asked of clusters. */
export class Clusters {
  /** By deployment. */
  #lines = new Map();
  /** By environment and path. */
  #answers = new Map();
  #unreachable;

  constructor(unreachable) {
    this.#unreachable = new Set(unreachable);
  }

  /** What the pods of a deployment have written, the newest pod first. */
  wrote(id, app, lines) {
    this.#lines.set(id, lines.map((line) => (typeof line === 'string' ? { pod: `${app}-0`, line } : line)));
  }

  /** What the Kubernetes API answers. */
  answers(env, path, answer) {
    checkPath(path);
    this.#answers.set(`${env} ${path}`, json(path, answer));
  }

  /** The last lines of each pod. */
  logs(env, id, tail) {
    this.#reach(env);
    const pods = new Map();
    for (const { pod, line } of this.#lines.get(id) ?? []) {
      if (!pods.has(pod)) pods.set(pod, []);
      pods.get(pod).push({ pod, line: bounded(line) });
    }
    const lines = [...pods.values()].slice(0, MOST_PODS).flatMap((written) => written.slice(-tail));
    let bytes = 0;
    const fits = ({ pod, line }) => (bytes += Buffer.byteLength(pod) + Buffer.byteLength(line)) <= ANSWER_BYTES;
    const end = lines.findIndex((line) => !fits(line));
    return end === -1 ? lines : lines.slice(0, end);
  }

  /** What the Kubernetes API answers, as JSON. */
  kubernetes(env, path) {
    checkPath(path);
    this.#reach(env);
    const answer = this.#answers.get(`${env} ${path}`);
    if (answer === undefined) {
      const how = `the test says what is: new Host({ kubernetes: { '${env}': { '${path}': … } } })`;
      refuse('not-found', `there is no object \`${path}\` in \`${env}\`: ${how}`);
    }
    const bytes = Buffer.byteLength(answer);
    if (bytes > ANSWER_BYTES) {
      refuse('invalid', `path: the answer has ${bytes} bytes, and may have ${ANSWER_BYTES}: ask for less`);
    }
    return answer;
  }

  #reach(env) {
    if (this.#unreachable.has(env)) refuse('unavailable', `the cluster of \`${env}\` does not answer`);
  }
}
