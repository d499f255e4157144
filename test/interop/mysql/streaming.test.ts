import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Refusal } from '../../../protocols/error.ts';
import { mysql } from '../../../protocols/mysql/engine.ts';
import type { Statement } from '../../../protocols/statement.ts';
import { statementGate } from '../../../src/gateway/policy.ts';
import type { DatabaseServer } from '../../support/database.ts';
import { startTestGateway, type TestGateway } from '../../support/gateway.ts';
import { mariadb11Missing, startMariadb } from '../../support/mariadb.ts';
import type { RecordedStatement } from '../../support/memory-recorder.ts';
import { mysqlMissing, startMysql } from '../../support/mysql.ts';
import { MYSQL_SETTINGS } from '../../support/mysql-peers.ts';
import { RawMysql, type RawOptions } from '../../support/mysql-raw.ts';
import { command, FLAG, lenenc, packets, u16, u32 } from '../../support/mysql-scripts.ts';
import { cases } from './command-cases.ts';

/**
 * Every command against real servers, packet by packet: the replies through the gateway are those of the server, byte
 * for byte, in each framing that clients negotiate; and each command is on record with what it gave.
 */

interface Framing {
  readonly name: string;
  readonly capabilities: number;
  readonly extended?: number;
}

const FRAMINGS: readonly Framing[] = [
  { name: 'EOF packets', capabilities: FLAG.multiStatements },
  { name: 'DEPRECATE_EOF', capabilities: FLAG.multiStatements | FLAG.deprecateEof },
  {
    name: 'DEPRECATE_EOF, SESSION_TRACK',
    capabilities: FLAG.multiStatements | FLAG.deprecateEof | FLAG.sessionTrack,
  },
];

const FAMILIES = [
  {
    name: 'MySQL',
    flavor: 'mysql' as const,
    missing: mysqlMissing,
    start: () => startMysql({ options: ['--local-infile=ON'] }),
    framings: [
      ...FRAMINGS,
      {
        name: 'EOF packets, OPTIONAL_RESULTSET_METADATA, attributes',
        capabilities: FLAG.multiStatements | FLAG.optionalMetadata | FLAG.queryAttributes,
      },
      {
        name: 'all of them',
        capabilities:
          FLAG.multiStatements |
          FLAG.deprecateEof |
          FLAG.sessionTrack |
          FLAG.optionalMetadata |
          FLAG.queryAttributes,
      },
    ],
  },
  {
    name: 'MariaDB',
    flavor: 'mariadb' as const,
    missing: () => false,
    start: () => startMariadb('10', { options: ['--local-infile=ON', '--log-bin', '--server-id=1'] }),
    framings: [
      ...FRAMINGS,
      { name: 'EOF packets, extended', capabilities: FLAG.multiStatements, extended: 0x1d },
      {
        name: 'DEPRECATE_EOF, extended',
        capabilities: FLAG.multiStatements | FLAG.deprecateEof | FLAG.sessionTrack,
        extended: 0x1d,
      },
    ],
  },
];

/** As MariaDB 10 but for what it has learned: that alone is tested. */
const NEWER = {
  name: 'MariaDB 11',
  brief: true,
  flavor: 'mariadb' as const,
  missing: mariadb11Missing,
  start: () => startMariadb('11', { options: ['--local-infile=ON'] }),
  framings: [
    {
      name: 'DEPRECATE_EOF, extended, unit results',
      capabilities: FLAG.multiStatements | FLAG.deprecateEof | FLAG.sessionTrack,
      extended: 0x3d,
    },
  ],
};

for (const family of [...FAMILIES, NEWER]) {
  describe.skipIf(family.missing())(family.name, () => {
    let server: DatabaseServer;
    let open: TestGateway;
    let closed: TestGateway;
    let decide: (statement: Statement) => 'allow' | 'refuse' = () => 'allow';

    beforeAll(async () => {
      server = await family.start();
      await server.run(
        'create database lab',
        'create database other',
        "create user raw@'%' identified by ''",
        "grant all on *.* to raw@'%'",
        'create table lab.t1 (id int primary key, v varchar(20))',
        "insert into lab.t1 values (1,'a'),(2,'zz'),(3,'c')",
        'create table lab.t2 (id int auto_increment primary key, b varchar(20), c longtext)',
        'create procedure lab.two() begin select 1, 2; select id from lab.t1; end',
        'create procedure lab.put(in a int, out b int) begin set b = a + 1; end',
      );
      const start = (allowLocalInfile: boolean) =>
        startTestGateway({
          engine: mysql,
          settings: { ...MYSQL_SETTINGS, flavor: family.flavor, allowLocalInfile },
          servers: [{ host: server.host, port: server.port }],
          username: 'raw',
          password: null,
          database: 'lab',
          decide: (statement) =>
            decide(statement) === 'allow'
              ? { action: 'allow' }
              : { action: 'refuse', refusal: new Refusal('statement_not_allowed', 'not through here') },
        });
      open = await start(true);
      closed = await start(false);
    });

    afterAll(async () => {
      await open?.close();
      await closed?.close();
      await server?.stop();
    });

    const nothing: typeof test = (() => {}) as never;
    const inFull = 'brief' in family ? nothing : test;

    const to = (port: number, options: Partial<RawOptions> = {}): Promise<RawMysql> =>
      RawMysql.connect({ port, user: 'raw', database: 'lab', capabilities: 1 << 7, ...options });

    async function prepareTables(): Promise<void> {
      await server.run('truncate table lab.t2');
    }

    test.each(family.framings)('all commands, framing: $name', async ({ capabilities, ...rest }) => {
      const extended = ('extended' in rest ? rest.extended : 0) ?? 0;
      const options = { capabilities: capabilities | (1 << 7), extended };
      const list = cases(family.flavor, capabilities, extended);
      await prepareTables();
      const play = async (raw: RawMysql, each: (reply: Buffer, index: number) => void): Promise<void> => {
        let first = 0;
        for (const [index, { name, send, file }] of list.entries()) {
          const reply = await raw.ask(send(raw, first), file ?? null);
          if (name.startsWith('prepare') && reply[4] === 0) {
            if (first === 0 || name === 'prepare without definitions') first = reply.readUInt32LE(5);
            reply.writeUInt32LE(reply.readUInt32LE(5) - first, 5);
          }
          each(reply, index);
        }
      };
      const direct = await to(server.port, options);
      const replies: Buffer[] = [];
      await play(direct, (reply) => replies.push(Buffer.from(reply)));
      direct.end();

      await prepareTables();
      const through = await to(open.port, options);
      const session = open.recorder.sessions.at(-1)!;
      let before = 0;
      await play(through, (reply, index) => {
        const { name, record, varies } = list[index]!;
        if (!varies) expect(comparable(reply), name).toBe(comparable(replies[index]!));
        // The last one is the marker's.
        const recorded = session.statements.slice(before, -1);
        expect(recorded.map(shown), name).toMatchObject(record as object[]);
        before = session.statements.length;
      });
      through.end();
      expect(session.notes.filter(({ kind }) => kind === 'opaque')).toEqual([]);
    });

    test('a file is refused by the server where the capability is not offered', async () => {
      const raw = await to(closed.port);
      const reply = await raw.ask(raw.query("load data local infile '/etc/passwd' into table t2"), [
        Buffer.from('x'),
      ]);
      expect(reply.readUInt16LE(5)).toBe(family.flavor === 'mysql' ? 3948 : 4166);
      raw.end();
    });

    test.each([
      ['SHUTDOWN', command(0x08), 1227],
      ['BINLOG_DUMP', command(0x12, u32(4), u16(0), u32(2)), 1227],
      [
        'REGISTER_SLAVE',
        command(0x15, u32(2), lenenc('h'), lenenc('u'), lenenc('pa55word'), u16(1), u32(0), u32(0)),
        1227,
      ],
      ['CLONE', command(0x20), 1047],
    ])('%s does not reach the server', async (_name, bytes, errno) => {
      const raw = await to(closed.port);
      const reply = await raw.ask(bytes);
      expect(reply[3]).toBe(1);
      expect(reply.readUInt16LE(5)).toBe(errno);
      const statement = closed.recorder.sessions.at(-1)!.statements.at(-2);
      expect(statement).toMatchObject({ kind: 'command', status: 'denied' });
      raw.end();
      expect(JSON.stringify(closed.recorder.sessions.at(-1)!.statements)).not.toContain('pa55word');
    });

    inFull('a refusal among pipelined commands is answered in its place', async () => {
      decide = (statement) => (statement.text?.startsWith('drop') ? 'refuse' : 'allow');
      const raw = await to(open.port);
      const reply = await raw.ask(
        Buffer.concat([raw.query('select 1'), raw.query('drop table t1'), raw.query('select 3')]),
      );
      decide = () => 'allow';
      const plain = await to(server.port);
      const one = await plain.ask(plain.query('select 1'));
      const three = await plain.ask(plain.query('select 3'));
      const between = reply.subarray(one.length, reply.length - three.length);
      expect(reply.subarray(0, one.length)).toEqual(one);
      expect(reply.subarray(reply.length - three.length)).toEqual(three);
      expect(between[3]).toBe(1);
      expect(between.toString('latin1', 5)).toBe('\xcb\x04#42000not through here');
      expect(await server.run('select count(*) as n from lab.t1')).toEqual([{ n: 3 }]);
      raw.end();
      plain.end();
    });

    test.each([
      ['with attributes', 1 << 20, false],
      ['without attributes', 0, false],
      ['without plugins', 0, true],
    ])('a change of user, client %s', async (_name, capabilities, withoutPlugins) => {
      const raw = await to(open.port, { capabilities, withoutPlugins });
      const session = open.recorder.sessions.at(-1)!;
      await raw.ask(raw.query('set @x = 5, sql_mode = ""'));
      await raw.ask(raw.query('create temporary table tt (a int)'));
      await raw.ask(raw.query('begin'));
      const tail = withoutPlugins ? [] : [u16(8), 'mysql_native_password\0', ...(capabilities ? [0] : [])];
      raw.write(command(0x11, 'somebody\0', 0, 'other\0', ...tail));
      if (!withoutPlugins) {
        const asked = await raw.packet();
        expect(asked.toString('latin1', 0, 23)).toBe('\xfemysql_native_password\0');
        raw.write(packets(2, Buffer.alloc(20, 3)));
      }
      const answer = await raw.packet();
      expect(answer[0]).toBe(0);
      const after = await raw.ask(
        raw.query(
          'select @x, database(), current_user(), @@character_set_client, @@sql_mode = @@global.sql_mode',
        ),
      );
      expect(after.toString('latin1')).toContain(
        `\xfb\x05other\x05raw@%\x06${withoutPlugins ? 'utf8mb' : 'latin1'}`.slice(
          0,
          withoutPlugins ? 13 : 99,
        ),
      );
      const gone = await raw.ask(raw.query('select * from lab.tt'));
      expect(gone.readUInt16LE(5)).toBe(1146);
      expect(session.statements.find(({ text }) => text === 'COM_CHANGE_USER somebody other')).toMatchObject({
        kind: 'command',
        status: 'ok',
      });
      expect(session.statements.at(-1)).toMatchObject({ transaction: 'idle' });
      raw.end();
    });

    inFull('a change of user to a database that is not there', async () => {
      const raw = await to(open.port);
      raw.write(command(0x11, 'x\0', 0, 'nosuch\0', u16(45), 'mysql_native_password\0'));
      await raw.packet();
      raw.write(packets(2, ''));
      const answer = await raw.packet();
      expect(answer.readUInt16LE(1)).toBe(1049);
      expect((await raw.ask(raw.query('select 1'))).length).toBeGreaterThan(20);
      raw.end();
    });

    inFull('KILL QUERY from a second connection, by the greeting id', async () => {
      const victim = await to(open.port);
      const killer = await to(open.port);
      const session = open.recorder.sessions.at(-2)!;
      const answered = victim.ask(victim.query('select count(*) from t1 a, t1 b, t1 c where sleep(2) = 0'));
      await open.recorder.until(() => session.statements.some(({ ended }) => !ended));
      const busy = async () =>
        (
          await server.run(
            `select count(*) as n from information_schema.processlist where id = ${victim.connectionId} and command = 'Query'`,
          )
        )[0]!['n'] === 1;
      while (!(await busy())) await new Promise((resolve) => setTimeout(resolve, 20));
      const started = Date.now();
      expect((await killer.ask(killer.query(`KILL QUERY ${victim.connectionId}`)))[4]).toBe(0);
      const reply = await answered;
      expect(Date.now() - started).toBeLessThan(2000);
      expect(reply.toString('latin1')).toContain('#70100');
      expect(session.statements[0]).toMatchObject({ status: 'cancelled', error: { code: '1317/70100' } });
      victim.end();
      killer.end();
    });

    inFull('a session that the server kills', async () => {
      const raw = await to(open.port);
      const session = open.recorder.sessions.at(-1)!;
      raw.write(raw.query('select sleep(30)'));
      const running = async () =>
        (
          await server.run(
            `select count(*) as n from information_schema.processlist where id = ${raw.connectionId} and info like 'select sleep%'`,
          )
        )[0]!['n'] === 1;
      while (!(await running())) await new Promise((resolve) => setTimeout(resolve, 20));
      await server.run(`kill ${raw.connectionId}`);
      await raw.rest();
      await open.recorder.until(() => session.end_ !== null);
      expect(session.end_!.reason).toBe('server_closed');
      expect(session.statements.at(-1)!.status).toMatch(/unknown|error|cancelled/);
    });

    inFull('a server that ends an idle session', async () => {
      const raw = await to(open.port);
      const session = open.recorder.sessions.at(-1)!;
      await raw.ask(raw.query('set wait_timeout = 1'));
      const rest = await raw.rest();
      await open.recorder.until(() => session.end_ !== null);
      expect(session.end_!.reason).toBe('server_closed');
      if (family.flavor === 'mysql') {
        expect(rest.readUInt16LE(5)).toBe(4031);
        expect(session.notes.at(-1)).toMatchObject({ kind: 'server_notice', code: '4031/HY000' });
      }
    });

    test('parameters of every type read as the server reads them', async () => {
      const plain = await startTestGateway({
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: family.flavor },
        servers: [{ host: server.host, port: server.port }],
        username: 'raw',
        password: null,
        database: 'lab',
        observe: { sampleRows: 1 },
      });
      const raw = await to(plain.port);
      const session = plain.recorder.sessions.at(-1)!;
      const bytes = (length: number, write: (bytes: Buffer) => void): Buffer => {
        const value = Buffer.alloc(length);
        write(value);
        return value;
      };
      const moment = (...parts: Buffer[]): Buffer => {
        const value = Buffer.concat(parts);
        return Buffer.concat([Buffer.of(value.length), value]);
      };
      const date = Buffer.concat([u16(2026), Buffer.of(1, 9)]);
      const values: [number, number, Buffer][] = [
        [1, 0, Buffer.of(0x85)],
        [1, 0x80, Buffer.of(0x85)],
        [2, 0, u16(0x8000)],
        [3, 0, u32(-5)],
        [3, 0x80, u32(-5)],
        [8, 0, bytes(8, (each) => each.writeBigInt64LE(-(2n ** 62n) - 1n))],
        [8, 0x80, Buffer.alloc(8, 0xff)],
        [4, 0, bytes(4, (each) => each.writeFloatLE(1.5))],
        [5, 0, bytes(8, (each) => each.writeDoubleLE(0.1))],
        [246, 0, lenenc('12345.67890')],
        [10, 0, moment(date)],
        [12, 0, moment(date, Buffer.of(23, 5, 7))],
        [12, 0, moment(date, Buffer.of(23, 5, 7), u32(42))],
        [11, 0, moment(Buffer.of(1), u32(2), Buffer.of(3, 4, 5))],
        [11, 0, moment(Buffer.of(0), u32(0), Buffer.of(3, 4, 5), u32(900_000))],
        [253, 0, lenenc('größer')],
        [254, 0, lenenc('')],
      ];
      await raw.ask(command(0x16, 'select concat(?)'));
      const id = Number(session.statements[0]!.name);
      for (const [type, flag, value] of values) {
        const before = session.statements.length;
        await raw.ask(command(0x17, u32(id), 0, u32(1), 0, 1, type, flag, value));
        const { parameters, sample } = session.statements[before]!;
        // MySQL pads the fraction of seconds, in front, to 31 digits.
        const shownByServer = String(sample![0]![0])
          .replace(/\.0{25}(\d{6})$/, '.$1')
          .replace(/\.0+$/, '');
        expect([type, flag, String(parameters![0]!.value)]).toEqual([type, flag, shownByServer]);
      }
      raw.end();
      await plain.close();
    });

    inFull('text in gbk is recorded as text', async () => {
      const raw = await to(open.port, { collation: 28 });
      const session = open.recorder.sessions.at(-1)!;
      // The second byte of the character is a backslash: not one that escapes.
      const text = Buffer.concat([Buffer.from("select '"), Buffer.from('d55c', 'hex'), Buffer.from("', 1")]);
      const direct = await to(server.port, { collation: 28 });
      expect(await raw.ask(raw.query(text))).toEqual(await direct.ask(direct.query(text)));
      expect(session.statements[0]).toMatchObject({ text: "select '誠', 1", rowsReturned: 1 });
      raw.end();
      direct.end();
    });

    inFull('the account that everybody signs in with is not changed', async () => {
      const guarded = statementGate({
        engine: 'mysql',
        account: 'raw',
        allowAccountChange: false,
        readOnly: false,
      });
      const guard = await startTestGateway({
        engine: mysql,
        settings: { ...MYSQL_SETTINGS, flavor: family.flavor },
        servers: [{ host: server.host, port: server.port }],
        username: 'raw',
        password: null,
        decide: guarded,
      });
      const raw = await RawMysql.connect({
        port: guard.port,
        user: 'x',
        database: '',
        capabilities: FLAG.multiStatements,
      });
      for (const text of [
        "set password = 'x'",
        "alter user user() identified by 'x'",
        "select 1; alter user raw@'%' identified by 'x'",
        "/*!50000 alter user current_user() identified by 'x' */",
        'drop user raw',
      ]) {
        for (const bytes of [raw.query(text), command(0x16, text)]) {
          const reply = await raw.ask(bytes);
          expect([text, reply[3], reply.readUInt16LE(5)]).toEqual([text, 1, 1227]);
        }
      }
      expect((await raw.ask(raw.query('select 1'))).length).toBeGreaterThan(20);
      raw.end();
      await guard.close();
    });

    inFull('packets around 16 MiB, both ways', async () => {
      await server.run('set global max_allowed_packet = 67108864');
      const direct = await to(server.port);
      const through = await to(open.port);
      const session = open.recorder.sessions.at(-1)!;
      for (const length of [16_777_214, 16_777_215, 33_554_430]) {
        // The command byte is part of the payload.
        const text = `select length('${'x'.repeat(length - 1 - "select length('')".length)}')`;
        const expected = await direct.ask(direct.query(text));
        const reply = await through.ask(through.query(text));
        expect(reply.equals(expected)).toBe(true);
        expect(session.statements.at(-2)).toMatchObject({
          status: 'ok',
          rowsReturned: 1,
          textBytes: length - 1,
        });
      }
      for (const length of [16_777_210, 16_777_211, 20 * 1024 * 1024]) {
        const text = `select repeat('a', ${length}), 'b' union all select 'c', 'd'`;
        const expected = await direct.ask(direct.query(text));
        const reply = await through.ask(through.query(text));
        expect(reply.equals(expected)).toBe(true);
        expect(session.statements.at(-2)).toMatchObject({ status: 'ok', rowsReturned: 2 });
      }
      direct.end();
      through.end();
    });
  });
}

/** Errors name statement ids, which differ from one session to the next. */
function comparable(reply: Buffer): string {
  const text = reply.toString('latin1');
  if (!/(statement|handler|to) \(\d+\)/.test(text)) return text;
  return text.slice(3).replace(/\(\d+\)/, '()');
}

function shown(statement: RecordedStatement): object {
  return {
    ...statement,
    values: statement.parameters?.map(({ value }) => value) ?? null,
    code: statement.error?.code ?? null,
  };
}
