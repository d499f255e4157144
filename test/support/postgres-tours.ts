import { once } from 'node:events';
import { Readable } from 'node:stream';
import { text as textOf } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import postgresjs from 'postgres';

/** How to reach a server, directly or through a gateway. */
export interface Way {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  /** Null: none is sent. */
  readonly password: string | null;
  readonly database: string;
  /** Insist on TLS. */
  readonly tls?: boolean;
}

/** node-postgres: parameters, named statements, errors, pool, cursors, COPY both ways, notifications. */
export async function nodePostgresTour(way: Way): Promise<string[]> {
  const lines: string[] = [];
  const show = (step: string, value: unknown): void => void lines.push(`${step} ${JSON.stringify(value)}`);
  const options = {
    ...way,
    password: way.password ?? undefined,
    ssl: way.tls ? { rejectUnauthorized: false } : false,
  };
  const client = new pg.Client(options);
  await client.connect();
  await client.query('drop table if exists tourn');
  await client.query('create table tourn (id int primary key, name text, data jsonb)');
  const inserted = await client.query('insert into tourn values ($1, $2, $3)', [1, 'ü', { a: [1, null] }]);
  show('inserted', inserted.rowCount);
  for (let id = 2; id < 5; id += 1) {
    await client.query({
      name: 'insert',
      text: 'insert into tourn (id, name) values ($1, $2)',
      values: [id, null],
    });
  }
  const rows = await client.query('select * from tourn where id = any($1) order by id', [[1, 3]]);
  show('rows', rows.rows);
  const binary = await client.query({
    text: 'select $1::int4 as n',
    values: [7],
    binary: true,
  } as pg.QueryConfig);
  show('binary', binary.rows);
  show('error', await client.query('select 1/$1::int', [0]).catch((error) => error.code));
  show('several', (await client.query('select 1 as a; select 2 as b')) as unknown);
  const cursor = client.query(new Cursor('select generate_series(1, 10) as n'));
  show(
    'cursor',
    [...(await cursor.read(3)), ...(await cursor.read(20))].map((row: { n: number }) => row.n),
  );
  await cursor.close();
  const load = client.query(copyFrom('copy tourn (id, name) from stdin'));
  await pipeline(Readable.from(['100\tx\n', '101\t', '\\N\n']), load);
  show('copied in', load.rowCount);
  show(
    'copied out',
    await textOf(client.query(copyTo('copy (select id, name from tourn order by id) to stdout'))),
  );
  await client.query('begin');
  show('duplicate', await client.query('insert into tourn values (1)').catch((error) => error.code));
  show('aborted', await client.query('select 1').catch((error) => error.code));
  await client.query('rollback');
  const heard = once(client, 'notification');
  await client.query('listen tourn');
  await client.query("notify tourn, 'hi'");
  const [notification] = await heard;
  show('notified', [notification.channel, notification.payload]);
  const answers = await Promise.all([1, 2, 3].map((n) => client.query('select $1::int as n', [n])));
  show(
    'queued',
    answers.map((answer) => answer.rows[0].n),
  );
  await client.query('drop table tourn');
  await client.end();
  const pool = new pg.Pool({ ...options, max: 4 });
  const sums = await Promise.all(
    Array.from({ length: 20 }, (_, n) => pool.query('select $1::int as n', [n])),
  );
  show(
    'pool',
    sums.reduce((sum, answer) => sum + answer.rows[0].n, 0),
  );
  await pool.end();
  return lines;
}

/** postgres.js: it prepares by itself and sends many queries ahead. */
export async function postgresJsTour(way: Way): Promise<string[]> {
  const lines: string[] = [];
  const show = (step: string, value: unknown): void => void lines.push(`${step} ${JSON.stringify(value)}`);
  const sql = postgresjs({
    host: way.host,
    port: way.port,
    username: way.user,
    password: way.password ?? undefined,
    database: way.database,
    ssl: way.tls ? 'require' : false,
    max: 1,
    onnotice: (notice) => show('notice', notice.code),
  });
  await sql`drop table if exists tourp`;
  await sql`create table tourp (id int primary key, name text)`;
  await sql`insert into tourp ${sql([
    { id: 1, name: 'ü' },
    { id: 2, name: null },
  ] as never)}`;
  show('rows', await sql`select * from tourp where id < ${5} order by id`);
  show('error', await sql`select 1/${0}::int`.catch((error) => error.code));
  show('simple', await sql.unsafe('select 1 as a; select 2 as b'));
  const many = await Promise.all(Array.from({ length: 200 }, (_, n) => sql`select ${n}::int as n`));
  show(
    'pipelined',
    many.reduce((sum, [row]) => sum + row!.n, 0),
  );
  const parts: number[] = [];
  await sql`select generate_series(1, 10) as n`.cursor(4, (rows) => void parts.push(rows.length));
  show('cursor', parts);
  show(
    'transaction',
    await sql.begin(async (inner) => {
      await inner`insert into tourp values (3, 'x')`;
      const failed = await inner
        .savepoint((save) => save`insert into tourp values (3, 'y')`)
        .catch((error) => error.code);
      return [failed, (await inner`select count(*)::int as n from tourp`)[0]!.n];
    }),
  );
  const load = await sql`copy tourp from stdin`.writable();
  await pipeline(Readable.from(['100\tx\n101\t\\N\n']), load);
  show(
    'copied out',
    await textOf(await sql`copy (select * from tourp where id >= 100 order by id) to stdout`.readable()),
  );
  const heard = Promise.withResolvers<string>();
  const listener = await sql.listen('tourp', heard.resolve);
  await sql.notify('tourp', 'hi');
  show('notified', await heard.promise);
  await listener.unlisten();
  await sql`drop table tourp`;
  await sql.end();
  return lines;
}
