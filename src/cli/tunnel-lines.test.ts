import { expect, test } from 'vitest';
import type { Hello } from '../tunnel/messages.ts';
import { type Connection, environmentOf, statusLine, toolLines, untilText } from './tunnel-lines.ts';

const HELLO: Hello = {
  type: 'hello',
  gateway: 'gw-1',
  launch: 'l123456789',
  principal: "o'neil@example.org",
  resource: 'orders',
  resource_type: 'postgres',
  database: 'my db',
  account: 'app_ro',
  read_only: false,
  requires_token: false,
  expires_at: '2026-11-24T14:02:00',
};

function connection(hello: Partial<Hello>, more: Partial<Connection> = {}): Connection {
  return {
    hello: { ...HELLO, ...hello },
    place: { kind: 'tcp', host: '127.0.0.1', port: 50_000 },
    token: null,
    ...more,
  };
}

function line(tool: string, one: Connection): string | undefined {
  return toolLines(one).find(([name]) => name === tool)?.[1];
}

test('says as whom, how, and until when', () => {
  const now = new Date('2026-11-24T09:00:00');
  expect(statusLine(connection({}), now)).toBe('signed in as app_ro by Sallyport, recorded, until 14:02');
  expect(statusLine(connection({ account: null, read_only: true }), now)).toBe(
    'signed in by Sallyport, read-only, recorded, until 14:02',
  );
  expect(untilText(new Date('2026-11-25T03:04:00'), now)).toBe('2026-11-25 03:04');
});

test('names with spaces and quotes survive the shell, libpq and URLs', () => {
  const one = connection({});
  expect(line('psql', one)).toBe(
    String.raw`psql 'host=127.0.0.1 port=50000 dbname='\''my db'\'' user='\''o\'\''neil@example.org'\'' sslmode=disable'`,
  );
  expect(line('URL', one)).toBe("postgresql://o'neil%40example.org@127.0.0.1:50000/my%20db?sslmode=disable");
  expect(line('mysql', connection({ resource_type: 'mysql' }))).toBe(
    String.raw`mysql -h 127.0.0.1 -P 50000 -u 'o'\''neil@example.org' 'my db'`,
  );
  expect(line('sqlcmd', connection({ resource_type: 'sqlserver', principal: 'anna', database: null }))).toBe(
    'sqlcmd -S tcp:127.0.0.1,50000 -U anna -P any -C',
  );
});

test('variables lead tools to the tunnel, and undo those that lead elsewhere', () => {
  expect(environmentOf(connection({ principal: 'anna', database: 'orders' }))).toMatchObject({
    PGHOST: '127.0.0.1',
    PGPORT: '50000',
    PGUSER: 'anna',
    PGDATABASE: 'orders',
    PGHOSTADDR: undefined,
    PGSERVICE: undefined,
    DATABASE_URL: 'postgresql://anna@127.0.0.1:50000/orders?sslmode=disable',
  });
  expect(
    environmentOf(
      connection({ resource_type: 'mariadb', principal: 'anna', database: 'shop' }, { token: 'slp_x' }),
    ),
  ).toMatchObject({
    MYSQL_HOST: '127.0.0.1',
    MYSQL_TCP_PORT: '50000',
    MYSQL_PWD: 'slp_x',
    DATABASE_URL: 'mysql://anna:slp_x@127.0.0.1:50000/shop',
  });
  const socket = connection(
    { principal: 'anna', database: null },
    { place: { kind: 'unix', path: '/run/me/.s.PGSQL.5432' } },
  );
  expect(environmentOf(socket)).toMatchObject({ PGHOST: '/run/me', PGPORT: '5432' });
  expect(line('psql', socket)).toBe("psql 'host=/run/me port=5432 user=anna'");
});
