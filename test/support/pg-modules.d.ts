// node-postgres' companions come without types; this is what the tests use of them.
declare module 'pg-cursor' {
  import type { Submittable } from 'pg';

  // biome-ignore lint/style/noDefaultExport: it is the package's own
  export default class Cursor implements Submittable {
    constructor(text: string, values?: unknown[]);
    submit(connection: unknown): void;
    read(rows: number): Promise<{ n: number }[]>;
    close(): Promise<void>;
  }
}

declare module 'pg-copy-streams' {
  import type { Readable, Writable } from 'node:stream';
  import type { Submittable } from 'pg';
  export function from(text: string): Writable & Submittable & { rowCount: number };
  export function to(text: string): Readable & Submittable;
}
