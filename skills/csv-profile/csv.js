// RFC 4180: values in quotes may hold delimiters, line ends and, doubled, quotes.

export function parse(text, delimiter) {
  const rows = [];
  let row = [];
  let value = '';
  let quoted = false;
  const endValue = () => {
    row.push(value);
    value = '';
  };
  const endRow = () => {
    endValue();
    // A blank line is no row.
    if (row.length > 1 || row[0] !== '') rows.push(row);
    row = [];
  };
  for (let at = text.startsWith('\ufeff') ? 1 : 0; at < text.length; at += 1) {
    const sign = text[at];
    if (quoted) {
      if (sign !== '"') value += sign;
      else if (text[at + 1] === '"') value += text[(at += 1)];
      else quoted = false;
    } else if (sign === '"' && value === '') quoted = true;
    else if (sign === delimiter) endValue();
    else if (sign === '\n') endRow();
    else if (sign !== '\r' || text[at + 1] !== '\n') value += sign;
  }
  endRow();
  return rows;
}
