import { describe, expect, test } from 'vitest';
import type { Dialect } from './lexer.ts';
import { changeOfOwnAccount } from './own-account.ts';

const ACCOUNT = 'app_ro';

function refused(text: string, dialect: Dialect): boolean {
  return changeOfOwnAccount(text, ACCOUNT, dialect) !== null;
}

describe('PostgreSQL', () => {
  test.each([
    "ALTER USER app_ro PASSWORD 'SCRAM-SHA-256$4096:x'",
    'alter/**/user "app_ro" password \'y\'',
    'ALTER ROLE CURRENT_USER PASSWORD NULL',
    "alter role session_user with encrypted password 'x'",
    String.raw`ALTER ROLE U&"\0061pp_ro" PASSWORD 'x'`,
    'ALTER ROLE APP_RO RENAME TO other',
    "ALTER ROLE app_ro VALID UNTIL 'yesterday'",
    "ALTER ROLE app_ro SET session_preload_libraries = 'x'",
    "ALTER ROLE ALL SET search_path = 'x'",
    "select 1; ALTER ROLE app_ro PASSWORD 'x'; select 2",
    "DO $$ BEGIN EXECUTE 'x'; ALTER ROLE app_ro PASSWORD 'x'; END $$",
    'GRANT app_ro TO mallory',
    'DROP ROLE app_ro',
    'SET SESSION AUTHORIZATION postgres',
    "set session_authorization = 'postgres'",
  ])('refuses %s', (text) => {
    expect(refused(text, 'postgres')).toBe(true);
  });

  test.each([
    "ALTER USER somebody PASSWORD 'x'",
    "INSERT INTO notes VALUES ('ALTER ROLE app_ro PASSWORD ''x''')",
    'select 1 -- ALTER ROLE app_ro PASSWORD',
    'ALTER TABLE app_ro ADD COLUMN password text',
    'GRANT SELECT ON t TO app_ro',
    'GRANT readers TO app_ro',
    'SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *',
    'RESET SESSION AUTHORIZATION',
    'DISCARD ALL',
    'SET ROLE reader',
    "ALTER USER MAPPING FOR app_ro SERVER s OPTIONS (SET a 'b')",
  ])('lets %s pass', (text) => {
    expect(refused(text, 'postgres')).toBe(false);
  });
});

describe('MySQL and MariaDB', () => {
  test.each([
    "ALTER USER 'app_ro'@'%' IDENTIFIED BY 'x'",
    "ALTER USER USER() IDENTIFIED BY 'x'",
    "ALTER USER CURRENT_USER() IDENTIFIED BY 'x' RETAIN CURRENT PASSWORD",
    "SET PASSWORD = 'x'",
    "SET PASSWORD FOR 'app_ro'@'%' = 'x'",
    "/*!50001 ALTER USER app_ro IDENTIFIED BY 'x' */",
    "SELECT 1; SET PASSWORD = PASSWORD('x')",
    'RENAME USER app_ro TO b',
    'DROP USER IF EXISTS app_ro',
    "CREATE OR REPLACE USER app_ro IDENTIFIED BY 'x'",
    "GRANT ALL ON *.* TO app_ro IDENTIFIED BY 'x'",
    "UPDATE mysql.user SET authentication_string = 'x'",
    'UPDATE `mysql`.`global_priv` SET priv = 1',
    "PREPARE s FROM 'ALTER USER app_ro IDENTIFIED BY ''x'''",
    'ALTER USER app_ro ACCOUNT LOCK',
  ])('refuses %s', (text) => {
    expect(refused(text, 'mysql')).toBe(true);
  });

  test.each([
    "ALTER USER 'other'@'app_ro' IDENTIFIED BY 'x'",
    "SET PASSWORD FOR other = 'x'",
    "SET @h = PASSWORD('x')",
    'UPDATE shop.user SET name = 1',
    'SELECT password FROM users WHERE name = "app_ro"',
    'ALTER TABLE app_ro ADD COLUMN x int',
    "CREATE USER other IDENTIFIED BY 'x'",
  ])('lets %s pass', (text) => {
    expect(refused(text, 'mysql')).toBe(false);
  });
});

describe('SQL Server', () => {
  test.each([
    "ALTER LOGIN app_ro WITH PASSWORD = 'x' OLD_PASSWORD = 'y'",
    "SELECT 1 ALTER LOGIN [APP_RO] WITH PASSWORD = N'x'",
    'ALTER LOGIN app_ro DISABLE',
    'DROP LOGIN app_ro',
    "ALTER USER app_ro WITH PASSWORD = 'x'",
    "EXEC sp_password 'a', 'b'",
    "EXEC sys.sp_password 'a', 'b', 'c'",
    "EXEC ('ALTER LOGIN app_ro WITH PASSWORD = ''x''')",
    "EXEC sp_executesql N'ALTER LOGIN app_ro WITH PASSWORD = ''x'''",
  ])('refuses %s', (text) => {
    expect(refused(text, 'tds')).toBe(true);
  });

  test.each(["ALTER LOGIN other WITH PASSWORD = 'x'", 'DROP TABLE app_ro', "SELECT 'ALTER LOGIN app_ro'"])(
    'lets %s pass',
    (text) => {
      expect(refused(text, 'tds')).toBe(false);
    },
  );
});
