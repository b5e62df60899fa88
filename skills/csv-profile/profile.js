// What is known of some rows, column by column; two of these make one of all their rows.

const VALUES = 1_000;
const TOP = 5;

export const empty = () => ({ rows: 0, columns: [] });

const column = () => ({ empty: 0, numbers: 0, sum: 0, min: null, max: null, values: {}, more: false });

/** The profile of some rows. */
export function profile(rows) {
  const columns = (rows[0] ?? []).map(column);
  for (const row of rows) row.forEach((text, index) => add(columns[index], text.trim()));
  return { rows: rows.length, columns };
}

function add(column, text) {
  if (text === '') {
    column.empty += 1;
    return;
  }
  const number = Number(text);
  if (Number.isFinite(number)) {
    column.numbers += 1;
    column.sum += number;
    column.min = Math.min(column.min ?? number, number);
    column.max = Math.max(column.max ?? number, number);
  }
  count(column, text, 1);
}

function count(column, text, times) {
  if (Object.hasOwn(column.values, text)) column.values[text] += times;
  else if (Object.keys(column.values).length < VALUES) column.values[text] = times;
  else column.more = true;
}

/** The profile of the rows of both. */
export function merge(a, b) {
  const columns = (a.columns.length ? a : b).columns.map((_, index) => {
    const whole = column();
    for (const part of [a.columns[index], b.columns[index]]) {
      if (!part) continue;
      whole.empty += part.empty;
      whole.numbers += part.numbers;
      whole.sum += part.sum;
      whole.min = least(Math.min, whole.min, part.min);
      whole.max = least(Math.max, whole.max, part.max);
      whole.more ||= part.more;
      for (const [text, times] of Object.entries(part.values)) count(whole, text, times);
    }
    return whole;
  });
  return { rows: a.rows + b.rows, columns };
}

const least = (of, a, b) => (a === null ? b : b === null ? a : of(a, b));

/** What people want to know of it. */
export function columnsOf(header, { rows, columns }) {
  return header.map((name, index) => {
    const { empty, numbers, sum, min, max, values, more } = columns[index] ?? column();
    const filled = rows - empty;
    const top = Object.entries(values)
      .sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))
      .slice(0, TOP)
      .map(([value, count]) => ({ value, count }));
    const type = filled === 0 ? 'empty' : numbers === filled ? 'number' : 'text';
    const range = type === 'number' ? { min, max, mean: sum / numbers } : {};
    return { name, type, empty, ...range, distinct: more ? null : Object.keys(values).length, top };
  });
}
