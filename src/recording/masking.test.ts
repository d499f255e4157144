import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Dialect } from '../../protocols/sql/lexer.ts';
import { Statement } from '../../protocols/statement.ts';
import { sessionStart } from '../../test/support/recording.ts';
import { newId } from '../lib/id.ts';
import { maskText, NO_RULES } from './mask-text.ts';
import { type ResourceMasking, StatementMasker } from './masking.ts';

/** Statements whose every `S3CR3T` must go, and whose every `KEEP` must stay. */
const CREDENTIALS: readonly [Dialect, string][] = [
  ['postgres', `CREATE ROLE keep1 LOGIN PASSWORD 'S3CR3T' VALID UNTIL 'KEEP'`],
  ['postgres', `alter user app with encrypted password 'S3CR3T'`],
  ['postgres', `ALTER ROLE app PASSWORD E'S3CR3T\\'S3CR3T'`],
  ['postgres', `ALTER ROLE app PASSWORD $x$S3CR3T$x$`],
  ['postgres', `ALTER /* c */ ROLE app -- note\n PASSWORD\n'S3CR3T'`],
  ['postgres', `CREATE USER MAPPING FOR app SERVER s OPTIONS (user 'KEEP', password 'S3CR3T')`],
  [
    'postgres',
    `CREATE SUBSCRIPTION s CONNECTION 'host=KEEP user=KEEP password=S3CR3T dbname=KEEP' PUBLICATION p`,
  ],
  ['postgres', `SELECT * FROM dblink('postgres://KEEP:S3CR3T@KEEP/db', 'SELECT KEEP')`],
  ['postgres', `SELECT crypt('S3CR3T', gen_salt('bf'))`],
  ['postgres', `SELECT pgp_sym_decrypt(data, 'S3CR3T') FROM t WHERE a = 'KEEP'`],
  ['postgres', `UPDATE users SET name = 'KEEP', password = 'S3CR3T' WHERE id = 'KEEP'`],
  ['postgres', `UPDATE users SET password_hash = upper('S3CR3T' || 'S3CR3T') WHERE id = 'KEEP'`],
  ['postgres', `SELECT 'KEEP' FROM users WHERE api_key IN ('S3CR3T', 'S3CR3T') AND x = 'KEEP'`],
  ['postgres', `SELECT 1 FROM users WHERE u.token LIKE 'S3CR3T%' OR name = 'KEEP'`],
  [
    'postgres',
    `INSERT INTO users (name, password, city) VALUES ('KEEP', 'S3CR3T', 'KEEP'), ('KEEP', lower('S3CR3T'), 'KEEP')`,
  ],
  ['postgres', `INSERT INTO users (name, "password") VALUES ('KEEP', 'S3CR3T')`],
  ['postgres', `DO $$ BEGIN EXECUTE 'ALTER ROLE x PASSWORD ''S3CR3T'''; PERFORM 'KEEP'; END $$`],
  ['postgres', `ALTER ROLE app PASSWORD 'S3CR3T`],
  ['mysql', `CREATE USER 'KEEP'@'KEEP' IDENTIFIED BY 'S3CR3T' REQUIRE SSL COMMENT 'KEEP'`],
  ['mysql', `CREATE USER 'KEEP' IDENTIFIED BY 'S3CR3T', 'KEEP'@'%' IDENTIFIED BY 'S3CR3T'`],
  [
    'mysql',
    `ALTER USER app IDENTIFIED WITH caching_sha2_password BY "S3CR3T" REPLACE 'S3CR3T' RETAIN CURRENT PASSWORD`,
  ],
  ['mysql', `CREATE USER app IDENTIFIED WITH mysql_native_password AS '*S3CR3T'`],
  ['mysql', `CREATE USER app IDENTIFIED VIA ed25519 USING PASSWORD('S3CR3T') OR unix_socket`],
  ['mysql', `GRANT ALL ON *.* TO app IDENTIFIED BY PASSWORD '*S3CR3T'`],
  ['mysql', `SET PASSWORD FOR 'KEEP'@'KEEP' = PASSWORD('S3CR3T')`],
  ['mysql', `SET PASSWORD = 'S3CR3T'`],
  [
    'mysql',
    `CHANGE MASTER TO MASTER_HOST='KEEP', MASTER_USER='KEEP', MASTER_PASSWORD='S3CR3T', MASTER_PORT=3306`,
  ],
  ['mysql', `CHANGE REPLICATION SOURCE TO SOURCE_PASSWORD = 'S3CR3T', SOURCE_HOST = 'KEEP'`],
  ['mysql', `START REPLICA USER = 'KEEP' PASSWORD = 'S3CR3T'`],
  [
    'mysql',
    `CREATE SERVER s FOREIGN DATA WRAPPER mysql OPTIONS (USER 'KEEP', PASSWORD 'S3CR3T', HOST 'KEEP')`,
  ],
  ['mysql', `SELECT AES_DECRYPT(c, 'S3CR3T') FROM t WHERE n = 'KEEP'`],
  ['mysql', `CREATE USER app /*!50706 IDENTIFIED BY 'S3CR3T' */`],
  ['mysql', `SET PASSWORD = 'S3CR3T\\'S3CR3T'`],
  ['tds', `CREATE LOGIN app WITH PASSWORD = N'S3CR3T', DEFAULT_DATABASE = [KEEP]`],
  ['tds', `ALTER LOGIN app WITH PASSWORD = 'S3CR3T' OLD_PASSWORD = 'S3CR3T'`],
  ['tds', `CREATE USER u WITH PASSWORD='S3CR3T'`],
  ['tds', `CREATE CREDENTIAL c WITH IDENTITY = 'KEEP', SECRET = 'S3CR3T'`],
  ['tds', `CREATE MASTER KEY ENCRYPTION BY PASSWORD = 'S3CR3T'`],
  ['tds', `OPEN SYMMETRIC KEY k DECRYPTION BY CERTIFICATE c WITH PASSWORD = 'S3CR3T'`],
  [
    'tds',
    `BACKUP CERTIFICATE c TO FILE = 'KEEP' WITH PRIVATE KEY (FILE = 'KEEP', ENCRYPTION BY PASSWORD = 'S3CR3T')`,
  ],
  ['tds', `EXEC sp_addlogin 'KEEP', 'S3CR3T'`],
  [
    'tds',
    `EXEC sp_addlinkedsrvlogin @rmtsrvname = N'KEEP', @useself = 'False', @rmtuser = N'x', @rmtpassword = N'S3CR3T'`,
  ],
  ['tds', `SELECT * FROM OPENROWSET('SQLNCLI', 'srv';'sa';'S3CR3T', 'SELECT 1')`],
  [
    'tds',
    `SELECT * FROM OPENDATASOURCE('SQLNCLI', 'Data Source=srv;User ID=sa;Password=S3CR3T').db.dbo.t WHERE a = 'KEEP'`,
  ],
  ['tds', `EXEC('ALTER LOGIN x WITH PASSWORD = ''S3CR3T''') ; SELECT 'KEEP'`],
  ['tds', `SELECT EncryptByPassPhrase('S3CR3T', 'x')`],
  ['tds', `ALTER LOGIN app WITH PASSWORD = 0x0200S3CR3T HASHED`.replace('S3CR3T', 'ABCDEF')],
];

describe('credentials in statements', () => {
  test.each(CREDENTIALS)('%s: %s', (dialect, text) => {
    const kept = text.match(/KEEP/g)?.length ?? 0;
    const { text: masked } = maskText(text, dialect, NO_RULES);
    expect(masked).not.toBeNull();
    expect(masked).not.toMatch(/S3CR3T|ABCDEF/);
    expect(masked).toContain('***');
    expect(masked!.match(/KEEP/g)?.length ?? 0).toBe(kept);
  });

  test.each([
    ['postgres', `SELECT * FROM orders WHERE status = 'paid' AND note = 'about the code'`],
    ['postgres', `ALTER ROLE app PASSWORD NULL`],
    ['mysql', `ALTER USER app PASSWORD EXPIRE INTERVAL 90 DAY`],
    ['mysql', `ALTER USER app PASSWORD HISTORY 5 FAILED_LOGIN_ATTEMPTS 3`],
    ['postgres', `SELECT password FROM users WHERE id = 7`],
    ['postgres', `SELECT passport, 'x' FROM travellers WHERE passengers > 3`],
    ['tds', `SELECT name, modify_date FROM sys.sql_logins WHERE is_disabled = 0`],
  ] as [Dialect, string][])('%s: nothing to mask in %s', (dialect, text) => {
    expect(maskText(text, dialect, NO_RULES).text).toBeNull();
  });

  test('a password of any characters goes from every dialect, quoted as the dialect quotes', () => {
    const forms: [Dialect, (literal: string) => string][] = [
      ['postgres', (literal) => `ALTER ROLE app WITH PASSWORD ${literal}; SELECT 1`],
      ['mysql', (literal) => `CREATE USER app@'%' IDENTIFIED BY ${literal} PASSWORD EXPIRE`],
      ['tds', (literal) => `CREATE LOGIN app WITH PASSWORD = N${literal}, CHECK_POLICY = OFF`],
      ['mysql', (literal) => `SET PASSWORD = ${literal}`],
    ];
    fc.assert(
      fc.property(
        fc.constantFrom(...forms),
        fc.string({ unit: 'grapheme', minLength: 4, maxLength: 30 }),
        ([dialect, form], noise) => {
          const password = `Q7z${noise}Z7q`;
          const doubled = password.replaceAll("'", "''");
          const literal = `'${dialect === 'mysql' ? doubled.replaceAll('\\', '\\\\') : doubled}'`;
          const { text } = maskText(form(literal), dialect, NO_RULES);
          expect(text).not.toBeNull();
          expect(text).not.toContain('Q7z');
          expect(text).not.toContain('Z7q');
        },
      ),
      { numRuns: 500 },
    );
  });

  test('a text cut at any byte gives no part of the password away', () => {
    const text = `SELECT 'KEEP'; ALTER ROLE app PASSWORD 'S3CR3T' VALID UNTIL 'x'`;
    for (let length = 0; length <= text.length; length += 1) {
      const part = text.slice(0, length);
      expect(maskText(part, 'postgres', NO_RULES).text ?? part).not.toMatch(/'S3/);
    }
  });
});

describe('parameters and rules', () => {
  const rules: ResourceMasking = {
    parameters: 'on',
    columns: new Set(['ssn', 'email']),
    patterns: [/\b\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}\b/g],
  };
  const masker = new StatementMasker(
    new Map([
      ['orders', rules],
      ['vault', { ...rules, parameters: 'masked' }],
    ]),
  );

  function bound(
    engine: string,
    text: string,
    values: (string | number)[],
    names: (string | null)[] = [],
    resource = 'orders',
  ): unknown[] {
    const session = sessionStart(newId(), 'ana', { engine, resource });
    const statement = new Statement('execute', text, text.length);
    statement.parameters = values.map((value, index) => ({ name: names[index] ?? null, type: null, value }));
    return (masker.parameters(session, statement) ?? statement.parameters).map(({ value }) => value);
  }

  test('in places of secrets, by number, by position and by name', () => {
    expect(bound('postgres', 'UPDATE users SET name = $2, password = $1', ['s', 'n'])).toEqual(['***', 'n']);
    expect(bound('mysql', 'INSERT INTO users (name, password) VALUES (?, ?)', ['n', 's'])).toEqual([
      'n',
      '***',
    ]);
    expect(bound('tds', 'ALTER LOGIN a WITH PASSWORD = @p', ['s'], ['@p'])).toEqual(['***']);
    expect(bound('tds', 'dbo.make_user', ['n', 's'], ['@name', '@NewPassword'])).toEqual(['n', '***']);
  });

  test('by the columns of the rules, and by their patterns', () => {
    expect(bound('postgres', 'SELECT 1 FROM p WHERE ssn = $1 AND city = $2', ['123', 'Bern'])).toEqual([
      '***',
      'Bern',
    ]);
    expect(bound('postgres', 'SELECT $1, $2', ['card 4111 1111 1111 1111!', 4111111111111111])).toEqual([
      'card ***!',
      '***',
    ]);
    const session = sessionStart(newId());
    const text = `SELECT 1 FROM p WHERE email = 'a@b.c' AND n = '4111-1111-1111-1111' OR c = 4111111111111111`;
    expect(masker.statement(session, new Statement('query', text, text.length))!.text).toBe(
      `SELECT 1 FROM p WHERE email = '***' AND n = '***' OR c = ***`,
    );
    const statement = new Statement('query', 'SELECT id, email FROM p', 23);
    statement.columns = ['id', 'email'];
    statement.sample = [
      ['1', 'a@b.c'],
      ['4111111111111111', null],
    ];
    masker.outcome(session, statement, []);
    expect(statement.sample).toEqual([
      ['1', '***'],
      ['***', null],
    ]);
  });

  test('what a server says about a masked statement is masked too', () => {
    const session = sessionStart(newId(), 'ana', { engine: 'mysql' });
    const text = `ALTER USER app IDENTIFIED BY 'hunter22' REQUIRE NONSENSE`;
    const statement = new Statement('query', text, text.length);
    const masked = masker.statement(session, statement)!;
    statement.error = { code: '1064', message: `syntax error near 'hunter22' REQUIRE NONSENSE'` };
    statement.messages = ['card 4111111111111111'];
    statement.results = [{ tag: null, rowsReturned: null, rowsAffected: null, text }];
    statement.outputs = [{ name: '@token', type: null, value: 'abc' }];
    masker.outcome(session, statement, masked.secrets);
    expect(
      JSON.stringify([statement.error, statement.messages, statement.results, statement.outputs]),
    ).not.toMatch(/hunter|4111|abc/);
  });

  test('a resource may keep none of their values', () => {
    expect(bound('postgres', 'SELECT $1', ['x'], [], 'vault')).toEqual(['***']);
  });

  test('a connection string in a parameter loses its password and keeps the rest', () => {
    expect(bound('postgres', 'SELECT connect($1)', ['host=a password=hunter2 user=b'])).toEqual([
      'host=a password=*** user=b',
    ]);
  });
});
