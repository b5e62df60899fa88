// What build.mjs makes of files that are not JavaScript.

/** Numbered migrations, such as `./migrations/*.sql`, for `db.migrate`. */
declare module '*.sql' {
  const migrations: { number: number; name: string; sql: string }[];
  export default migrations;
}
declare module '*.txt' {
  const text: string;
  export default text;
}
declare module '*.md' {
  const text: string;
  export default text;
}
