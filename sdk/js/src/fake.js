// What the parts of the fake platform share.

/** 2026-01-01: the fake platform's clock stands still. */
export const NOW = 1_767_225_600_000n;

/** Throws an error of the contract, as a component's platform does. */
export const refuse = (tag, val) => {
  throw Object.assign(new Error(`${tag}: ${val}`), { payload: { tag, val } });
};

/** JSON text that must be an object; `{}` if there is none. */
export function object(what, text, bytes) {
  if (text === undefined) return '{}';
  const value = JSON.parse(text);
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    refuse('invalid', `${what}: is not a JSON object`);
  }
  if (Buffer.byteLength(text) > bytes) refuse('invalid', `${what}: exceeds ${bytes} bytes`);
  if (text.includes('\\u0000')) refuse('invalid', `${what}: holds the character U+0000`);
  return text;
}
