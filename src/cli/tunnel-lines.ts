import { basename, dirname } from 'node:path';
import type { LocalPlace } from '../tunnel/local-listener.ts';
import type { Hello, ResourceType } from '../tunnel/messages.ts';

/** What a person, or a program that is started for them, must know to connect through a tunnel. */
export interface Connection {
  readonly hello: Hello;
  readonly place: LocalPlace;
  /** The launch token to give as password; null where none is asked for. */
  readonly token: string | null;
}

/** SQL Server's tools ask for a password before they connect; any will do. */
const ANY_PASSWORD = 'any';

const PRODUCT: Readonly<Record<ResourceType, string>> = {
  postgres: 'PostgreSQL',
  mysql: 'MySQL',
  mariadb: 'MariaDB',
  sqlserver: 'SQL Server',
};

/** `signed in as app_ro by Sallyport, recorded, until 14:02` */
export function statusLine({ hello }: Pick<Connection, 'hello'>, now = new Date()): string {
  const account = hello.account === null ? '' : ` as ${hello.account}`;
  const readOnly = hello.read_only ? 'read-only, ' : '';
  return `signed in${account} by Sallyport, ${readOnly}recorded, until ${untilText(new Date(hello.expires_at), now)}`;
}

export function untilText(end: Date, now = new Date()): string {
  const time = `${two(end.getHours())}:${two(end.getMinutes())}`;
  if (end.toDateString() === now.toDateString()) return time;
  return `${end.getFullYear()}-${two(end.getMonth() + 1)}-${two(end.getDate())} ${time}`;
}

export function placeText(place: LocalPlace): string {
  return place.kind === 'tcp' ? `${place.host}:${place.port}` : place.path;
}

/** All that is printed of a tunnel that has opened. */
export function tunnelLines(connection: Connection): string[] {
  const { hello, place, token } = connection;
  const lines = [
    `${hello.resource} (${PRODUCT[hello.resource_type]}) is at ${placeText(place)}`,
    statusLine(connection),
    '',
    ...toolLines(connection).map(([tool, line]) => `  ${tool.padEnd(9)} ${line}`),
    '',
  ];
  if (token === null) lines.push('Any user name will do, and no password.');
  else lines.push(`Any user name will do. Password: ${token}`);
  return lines;
}

/** A line for each tool, ready to be copied. */
export function toolLines(connection: Connection): [tool: string, line: string][] {
  const { hello, place } = connection;
  const { database } = hello;
  const user = hello.principal;
  const form = (fields: string): [string, string] => [
    'DBeaver',
    `new ${PRODUCT[hello.resource_type]} connection: ${fields}; DataGrip takes the JDBC URL`,
  ];
  if (place.kind === 'unix') return socketLines(connection, place.path);
  const { host, port } = place;
  const inForm = form(
    `host ${host}, port ${port}${database === null ? '' : `, database ${database}`}, user ${user}`,
  );
  switch (hello.resource_type) {
    case 'postgres':
      return [
        ['psql', `psql ${quoted(conninfo({ host, port, dbname: database, user, sslmode: 'disable' }))}`],
        ['URL', urlOf(connection)],
        [
          'JDBC',
          `jdbc:postgresql://${host}:${port}/${encode(database)}?user=${encode(user)}&sslmode=disable`,
        ],
        inForm,
      ];
    case 'mysql':
    case 'mariadb': {
      const scheme = hello.resource_type;
      return [
        [
          scheme,
          `${scheme} -h ${host} -P ${port} -u ${quoted(user)}${connection.token === null ? '' : ' -p'}${database === null ? '' : ` ${quoted(database)}`}`,
        ],
        ['URL', urlOf(connection)],
        ['JDBC', `jdbc:${scheme}://${host}:${port}/${encode(database)}?user=${encode(user)}`],
        inForm,
      ];
    }
    case 'sqlserver': {
      const name = database === null ? '' : ` -d ${quoted(database)}`;
      const password = connection.token ?? ANY_PASSWORD;
      // A token on a command line is seen by others on the machine: sqlcmd asks for it.
      const given = connection.token === null ? ` -P ${ANY_PASSWORD}` : '';
      return [
        ['sqlcmd', `sqlcmd -S tcp:${host},${port} -U ${quoted(user)}${given} -C${name}`],
        ['URL', urlOf(connection)],
        [
          'JDBC',
          `jdbc:sqlserver://${host}:${port};${database === null ? '' : `databaseName=${database};`}user=${user};password=${password};trustServerCertificate=true`,
        ],
        inForm,
      ];
    }
  }
}

function socketLines({ hello }: Connection, path: string): [string, string][] {
  const user = hello.principal;
  const { database } = hello;
  if (hello.resource_type === 'postgres') {
    const port = portInName(path);
    if (port === null)
      return [
        ['note', `libpq finds sockets called .s.PGSQL.PORT only; ${basename(path)} is for other tools`],
      ];
    return [['psql', `psql ${quoted(conninfo({ host: dirname(path), port, dbname: database, user }))}`]];
  }
  const name = database === null ? '' : ` ${quoted(database)}`;
  return [['mysql', `mysql --socket=${quoted(path)} -u ${quoted(user)}${name}`]];
}

/** The variables that tools of this kind read, and those of others that would lead them elsewhere (undefined: to be unset). */
export function environmentOf(connection: Connection): Record<string, string | undefined> {
  const { hello, place, token } = connection;
  const { database } = hello;
  const user = hello.principal;
  const url = { DATABASE_URL: urlOf(connection), SALLYPORT_LAUNCH: hello.launch };
  switch (hello.resource_type) {
    case 'postgres':
      return {
        ...url,
        PGHOST: place.kind === 'tcp' ? place.host : dirname(place.path),
        PGPORT: String(place.kind === 'tcp' ? place.port : (portInName(place.path) ?? '')),
        PGUSER: user,
        ...(database === null ? {} : { PGDATABASE: database }),
        ...(token === null ? {} : { PGPASSWORD: token }),
        // The tunnel encrypts all the way to the gateway.
        PGSSLMODE: 'disable',
        ...unset('PGHOSTADDR', 'PGSERVICE', 'PGSSLNEGOTIATION', 'PGREQUIRESSL', 'PGREQUIREAUTH'),
        ...unset('PGCHANNELBINDING', 'PGGSSENCMODE', 'PGTARGETSESSIONATTRS'),
      };
    case 'mysql':
    case 'mariadb':
      return {
        ...url,
        ...(place.kind === 'tcp'
          ? { MYSQL_HOST: place.host, MYSQL_TCP_PORT: String(place.port) }
          : { MYSQL_UNIX_PORT: place.path, ...unset('MYSQL_HOST', 'MYSQL_TCP_PORT') }),
        MYSQL_USER: user,
        ...(database === null ? {} : { MYSQL_DATABASE: database }),
        ...(token === null ? unset('MYSQL_PWD') : { MYSQL_PWD: token }),
      };
    case 'sqlserver':
      return {
        ...url,
        SQLCMDSERVER: place.kind === 'tcp' ? `tcp:${place.host},${place.port}` : place.path,
        SQLCMDUSER: user,
        SQLCMDPASSWORD: token ?? ANY_PASSWORD,
        ...(database === null ? {} : { SQLCMDDBNAME: database }),
      };
  }
}

function urlOf({ hello, place, token }: Connection): string {
  const { database } = hello;
  const isSqlServer = hello.resource_type === 'sqlserver';
  const password = token ?? (isSqlServer ? ANY_PASSWORD : null);
  const login = `${encode(hello.principal)}${password === null ? '' : `:${encode(password)}`}`;
  if (place.kind === 'unix')
    return hello.resource_type === 'postgres'
      ? `postgresql://${login}@/${encode(database)}?host=${encode(dirname(place.path))}&port=${portInName(place.path) ?? ''}`
      : `mysql://${login}@localhost/${encode(database)}?socket=${encode(place.path)}`;
  const at = `${login}@${place.host}:${place.port}`;
  switch (hello.resource_type) {
    case 'postgres':
      return `postgresql://${at}/${encode(database)}?sslmode=disable`;
    case 'mysql':
    case 'mariadb':
      return `mysql://${at}/${encode(database)}`;
    case 'sqlserver':
      return `sqlserver://${at}?${database === null ? '' : `database=${encode(database)}&`}TrustServerCertificate=true`;
  }
}

/** What stands after `.s.PGSQL.` in a socket's name. */
function portInName(path: string): number | null {
  const port = /^\.s\.PGSQL\.(\d{1,5})$/.exec(basename(path))?.[1];
  return port === undefined ? null : Number(port);
}

/** libpq's `key=value` form. */
function conninfo(fields: Readonly<Record<string, string | number | null>>): string {
  return Object.entries(fields)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => {
      const text = String(value);
      return `${name}=${/^[\w.@/-]+$/.test(text) ? text : `'${text.replaceAll(/[\\']/g, '\\$&')}'`}`;
    })
    .join(' ');
}

/** For a shell, and only where it needs it. */
function quoted(text: string): string {
  return /^[\w.@/:=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

function encode(text: string | null): string {
  return text === null ? '' : encodeURIComponent(text);
}

function unset(...names: string[]): Record<string, undefined> {
  return Object.fromEntries(names.map((name) => [name, undefined]));
}

function two(value: number): string {
  return String(value).padStart(2, '0');
}
