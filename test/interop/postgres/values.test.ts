import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { decodeUtf8 } from '../../../protocols/postgres/encoding.ts';
import { binaryText } from '../../../protocols/postgres/values.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { execute, message, parse, query, sync } from '../../support/postgres-observer.ts';
import { WireClient } from '../../support/postgres-wire.ts';

/** Binary values as PostgreSQL itself sends them are shown as PostgreSQL itself would cast them to text. */
const VALUES: readonly string[] = [
  'true, false',
  "0::int2, '-32768'::int2, 32767::int2, 2147483647, -2147483648, 9223372036854775807, -9223372036854775807",
  "0::float8, '-0'::float8, 0.1::float8, 1e15::float8, 123456789012345::float8, 1e14::float8, 1e-4::float8, 1e-5::float8, 1.5e300::float8, 'NaN'::float8, 'Infinity'::float8, '-Infinity'::float8, pi(), 1e100::float8",
  "0::float4, 0.1::float4, 1e6::float4, 999999::float4, 123456.7::float4, 1e-5::float4, 3.4e38::float4, 'NaN'::float4, 16777216::float4",
  '0::numeric, 1.10, -1.5, 12345678901234567890.123456789, 0.000012300, 1e20::numeric, -0.1, 10000, 100000000, 9999.9999, 0.0001',
  "'NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric",
  "'2024-02-29'::date, '0001-01-01'::date, '0044-03-15 BC'::date, 'infinity'::date, '-infinity'::date, '5874897-12-31'::date, '1999-12-31'::date",
  "'00:00'::time, '23:59:59.999999'::time, '24:00'::time, '13:14:15.5'::time",
  "'13:14:15+02'::timetz, '01:02:03.004-05:30'::timetz, '00:00+00'::timetz, '01:00:00+01:02:03'::timetz",
  "'2024-02-29 13:14:15'::timestamp, '1999-12-31 23:59:59.5'::timestamp, '0044-03-15 01:02:03 BC'::timestamp, 'infinity'::timestamp",
  "'2024-02-29 13:14:15+02'::timestamptz, '1969-12-31 23:59:59.999999+00'::timestamptz, '-infinity'::timestamptz",
  "'1 mon 2 days 3 s'::interval, '-1 year'::interval, '1 year 2 mons -3 days 04:05:06.7'::interval, '0'::interval, '-00:00:01.5'::interval, '-1 mon +2 days'::interval, '100 hours'::interval, '14 mons'::interval",
  "'plain'::text, ''::text, 'ünï'::varchar, 'pad'::bpchar, 'name'::name, 'x'::\"char\"",
  `'{"a": [1, null]}'::jsonb, '{"b":2}'::json, '<a/>'::xml`,
  "'\\x00ff'::bytea, ''::bytea",
  "'123e4567-e89b-12d3-a456-426614174000'::uuid",
  "'10.1.2.3/8'::inet, '10.1.2.3'::inet, '2001:db8::1'::inet, '::'::inet, '::1/64'::inet, '1:0:0:2:0:0:0:3'::inet, '::ffff:1.2.3.4'::inet, '10.0.0.0/8'::cidr, '2001:db8::/32'::cidr, '192.168.1.1/32'::cidr, '::1.2.3.4'::inet",
  "'08:00:2b:01:02:03'::macaddr, '08:00:2b:01:02:03:04:05'::macaddr8",
  '1.23::money, (-1234567.89)::numeric::money, 0::money',
  "'101'::bit(3), '1'::varbit, ''::varbit, '101010101010'::bit(12)",
  "'16/B374D848'::pg_lsn, '(1,2)'::tid, 4711::oid, '42'::xid, '7'::xid8",
  "'(1,2)'::point, '[(0,0),(1,1.5)]'::lseg, '(2,2),(1,1)'::box, '<(1,2),3>'::circle, '{1,2,3}'::line",
  "'{1,NULL,3}'::int4[], '{}'::int4[], '{{a,b},{c,d}}'::text[], array['a,b', 'c\"d', 'e\\f', '', 'NULL', null, 'g h', '{'], '[0:1]={5,6}'::int4[], array[true,false], array['2024-01-01'::date], array[1.5::numeric, null], array['\\x01'::bytea]",
  "'[1,5)'::int4range, 'empty'::int4range, '(,5)'::int8range, '[1.5,]'::numrange, '[2024-01-01,2024-02-01)'::daterange, '[2024-01-01 10:00,2024-01-02)'::tsrange, '[2024-01-01 10:00+00,)'::tstzrange, array['[1,2)'::int4range]",
];

describe.each([15, 18] as const)('PostgreSQL %s', (major) => {
  let server: PostgresServer;
  let client: WireClient;
  beforeAll(async () => {
    server = await startPostgres({ major });
    client = await WireClient.connect(server.host, server.port, {
      user: 'trust_user',
      database: server.database,
      TimeZone: 'UTC',
    });
  });
  afterAll(async () => {
    client?.destroy();
    await server?.stop();
  });

  test.each(VALUES)('%s', async (list) => {
    client.send(
      parse('', `select ${list}`),
      message('D', Buffer.from('S'), ''),
      message('B', '', '', 0, 0, 1, 1),
      execute(''),
      sync(),
    );
    const answers = await client.until('Z');
    const description = answers.find((one) => one[0] === 0x54)!;
    const types: number[] = [];
    for (let at = 7, left = description.readUInt16BE(5); left > 0; left -= 1) {
      const nul = description.indexOf(0, at);
      types.push(description.readUInt32BE(nul + 7));
      at = nul + 19;
    }
    const shown = cells(answers.find((one) => one[0] === 0x44)!).map((bytes, index) =>
      bytes === null ? null : binaryText(types[index]!, bytes, 0, bytes.length, decodeUtf8),
    );
    const names = types.map((_type, index) => `c${index}`);
    // The cast of an inet adds the length of its prefix, which its own form does not.
    const casts = names
      .map((name, index) => (types[index] === 869 ? `format('%s', ${name})` : `${name}::text`))
      .join(', ');
    client.send(query(`select ${casts} from (select ${list}) as v(${names.join(', ')})`));
    const cast = (await client.until('Z')).find((one) => one[0] === 0x44)!;
    expect(shown).toEqual(
      cells(cast).map((bytes, index) => {
        // How money looks is a matter of the server's locale: the number is what counts.
        const text = bytes?.toString() ?? null;
        return types[index] === 790 && text !== null && !text.includes('$')
          ? text.replace(/^(-?)/, '$1$$')
          : text;
      }),
    );
  });
});

function cells(row: Buffer): (Buffer | null)[] {
  const values: (Buffer | null)[] = [];
  for (let at = 7, left = row.readUInt16BE(5); left > 0; left -= 1) {
    const length = row.readInt32BE(at);
    at += 4;
    values.push(length < 0 ? null : row.subarray(at, at + length));
    if (length > 0) at += length;
  }
  return values;
}
