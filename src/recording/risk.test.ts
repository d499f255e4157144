import { describe, expect, test } from 'vitest';
import type { Dialect } from '../../protocols/sql/lexer.ts';
import { type Risk, riskOf } from './risk.ts';

const TABLE: readonly [Dialect, Risk, string][] = [
  ['postgres', 'none', 'SELECT a, b FROM t WHERE a = 1 FOR UPDATE'],
  ['postgres', 'none', 'BEGIN'],
  ['postgres', 'none', `SELECT 'DROP TABLE t' -- TRUNCATE t`],
  ['postgres', 'low', 'INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2'],
  ['postgres', 'low', 'DELETE FROM t WHERE a = 1'],
  ['postgres', 'low', 'VACUUM t'],
  ['postgres', 'medium', 'CREATE TABLE t (a int)'],
  ['postgres', 'medium', 'COPY t TO STDOUT'],
  ['postgres', 'high', 'DELETE FROM t'],
  ['postgres', 'high', 'UPDATE t SET a = (SELECT b FROM c WHERE d = 1)'],
  ['postgres', 'high', 'WITH d AS (DELETE FROM t RETURNING a) SELECT a FROM d WHERE a = 1'],
  ['postgres', 'high', 'SELECT 1; TRUNCATE t'],
  ['postgres', 'high', 'DROP TABLE t'],
  ['postgres', 'high', 'GRANT SELECT ON t TO ana'],
  ['postgres', 'high', `SELECT pg_read_file('/etc/passwd')`],
  ['postgres', 'high', 'SELECT rolpassword FROM pg_authid'],
  ['postgres', 'high', 'FROBNICATE everything'],
  ['postgres', 'critical', `COPY t TO PROGRAM 'cat > /tmp/t'`],
  ['postgres', 'critical', 'ALTER ROLE ana SUPERUSER'],
  ['postgres', 'critical', 'DROP DATABASE orders'],
  ['mysql', 'none', 'SELECT `delete` FROM t'],
  ['mysql', 'low', 'INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 2'],
  ['mysql', 'high', 'UPDATE t SET a = 1'],
  ['mysql', 'high', `SELECT LOAD_FILE('/etc/passwd')`],
  ['mysql', 'high', `SELECT a FROM t INTO OUTFILE '/tmp/t'`],
  ['mysql', 'high', `CREATE USER ana IDENTIFIED BY 'x'`],
  ['mysql', 'high', 'SET GLOBAL general_log = 0'],
  ['mysql', 'critical', `SELECT sys_exec('id')`],
  ['mysql', 'critical', 'SHUTDOWN'],
  ['tds', 'none', 'SELECT a FROM t WHERE a = 1'],
  ['tds', 'low', 'EXEC orders_of 1'],
  ['tds', 'low', 'UPDATE t SET a = 1 WHERE b = 2 SELECT 1'],
  ['tds', 'high', 'DELETE t SELECT a FROM u WHERE a = 1'],
  ['tds', 'high', `SELECT * FROM OPENROWSET('x', 'y', 'z') AS r`],
  ['tds', 'critical', `EXEC xp_cmdshell 'dir'`],
  ['tds', 'critical', `EXEC sp_configure 'xp_cmdshell', 1`],
  ['tds', 'critical', 'ALTER SERVER ROLE sysadmin ADD MEMBER ana'],
];

describe('the risk of a statement', () => {
  test.each(TABLE)('%s, %s: %s', (dialect, level, text) => {
    const judgement = riskOf(text, dialect);
    expect(judgement.level).toBe(level);
    expect(judgement.reason === null).toBe(level === 'none');
  });

  test('a text longer than what is judged is not taken for harmless', () => {
    expect(riskOf(`SELECT 1 ${' '.repeat(300_000)}; DROP TABLE t`, 'postgres').level).toBe('medium');
  });
});
