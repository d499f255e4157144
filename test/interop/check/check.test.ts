import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import type { CheckReport } from '../../../src/cli/check.ts';
import { type Authority, makeAuthority } from '../../support/certificates.ts';
import { startMariadb } from '../../support/mariadb.ts';
import { type PostgresServer, startPostgres } from '../../support/postgres.ts';
import { startTdsDouble } from '../../support/tds-double/double.ts';

/** `sallyport check --connect` as people run it, before a real PostgreSQL server with TLS. */

const MAIN = fileURLToPath(new URL('../../../src/main.ts', import.meta.url));

let folder: string;
let authority: Authority;
let server: PostgresServer;
let silent: Server;
const outputs: string[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-check-'));
  authority = await makeAuthority('Check test');
  const other = await makeAuthority('Somebody else');
  server = await startPostgres({
    tls: await authority.issue({ commonName: 'db', hosts: ['db.example', '127.0.0.1'] }),
    hba: ['local appdb launch_user scram-sha-256'],
  });
  writeFileSync(join(folder, 'ca.pem'), authority.cert);
  writeFileSync(join(folder, 'other-ca.pem'), other.cert);
  // Accepts connections and says nothing.
  silent = createServer(() => {});
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  silent.close();
  await server.stop();
  rmSync(folder, { recursive: true });
});

const CANARY = 'canary-91be-wrong-password';

interface Outcome {
  readonly code: number | null;
  readonly report: CheckReport;
}

/** Runs the command on one resource that differs from a working one by `change`. */
async function check(change: Record<string, unknown>, extra: readonly string[] = []): Promise<Outcome> {
  const file = join(folder, 'config.yaml');
  const resource = {
    type: 'postgres',
    host: '127.0.0.1',
    port: server.port,
    database: server.database,
    tls: { mode: 'verify-full', ca: './ca.pem' },
    launch_credentials: { username: server.accounts.launch.user, password: 'env:RIGHT' },
    limits: { connect_timeout: '2s', handshake_timeout: '2s' },
    ...change,
  };
  writeFileSync(file, stringify({ secrets: { env: { type: 'env' } }, resources: { orders: resource } }));
  const run = (args: readonly string[]): Promise<{ code: number | null; stdout: string }> =>
    new Promise((resolve) => {
      const env = { ...process.env, RIGHT: server.accounts.launch.password ?? '', WRONG: CANARY };
      const child = spawn(process.execPath, [MAIN, 'check', '-c', file, '--connect', ...args], { env });
      let stdout = '';
      let all = '';
      child.stdout.on('data', (chunk: Buffer) => {
        stdout += chunk.toString();
        all += chunk.toString();
      });
      child.stderr.on('data', (chunk: Buffer) => {
        all += chunk.toString();
      });
      child.on('close', (code) => {
        outputs.push(all);
        resolve({ code, stdout });
      });
    });
  const { code, stdout } = await run(['--json', ...extra]);
  return { code, report: JSON.parse(stdout) as CheckReport };
}

/** The steps of the only address as `name:ok tcp:ok …`, and the one that failed. */
function steps({ report }: Outcome): {
  line: string;
  failed: { detail: string; hint: string | null } | undefined;
} {
  const probe = report.resources![0]!.addresses[0]!;
  return {
    line: probe.steps.map(({ step, outcome }) => `${step}:${outcome}`).join(' '),
    failed: probe.steps.find(({ outcome }) => outcome === 'failed'),
  };
}

describe('sallyport check --connect', () => {
  test('a resource that works', async () => {
    const outcome = await check({});
    expect(outcome.code).toBe(0);
    expect(steps(outcome).line).toBe('name:ok tcp:ok secret:ok tls:ok sign_in:ok');
    const [, , , tls, signIn] = outcome.report.resources![0]!.addresses[0]!.steps;
    expect(tls?.detail).toMatch(/^TLSv1\.3 .* certificate verified$/);
    expect(signIn?.detail).toMatch(/^postgres 18\.\S+.* as launch_user, database appdb, scram-sha-256-plus$/);
  });

  test('a Unix socket, named by its folder as PostgreSQL does', async () => {
    const outcome = await check({ host: server.socketDirectory });
    expect(outcome.code).toBe(0);
    expect(steps(outcome).line).toBe('name:skipped tcp:ok secret:ok tls:skipped sign_in:ok');
    expect(outcome.report.resources![0]!.addresses[0]!.address).toBe(
      `${server.socketDirectory}/.s.PGSQL.${server.port}`,
    );
  });

  test.each<[string, () => Record<string, unknown>, string, RegExp, RegExp]>([
    [
      'a name that is not there',
      () => ({ host: 'nowhere.invalid' }),
      'name:failed tcp:skipped secret:ok tls:skipped sign_in:skipped',
      /nowhere\.invalid|name server/,
      /name/,
    ],
    [
      'a port where nothing listens',
      () => ({ port: 1 }),
      'name:ok tcp:failed secret:ok tls:skipped sign_in:skipped',
      /nothing listens/,
      /another port/,
    ],
    [
      'a variable that is not set',
      () => ({ launch_credentials: { username: 'u', password: 'env:NONE' } }),
      'name:ok tcp:ok secret:failed tls:skipped sign_in:skipped',
      /NONE is not set/,
      /Set it/,
    ],
    [
      'another authority',
      () => ({ tls: { ca: './other-ca.pem' } }),
      'name:ok tcp:ok secret:ok tls:failed sign_in:skipped',
      /certificate/,
      /tls\.ca/,
    ],
    [
      'another name',
      () => ({ tls: { ca: './ca.pem', server_name: 'else.example' } }),
      'name:ok tcp:ok secret:ok tls:failed sign_in:skipped',
      /else\.example/,
      /server_name/,
    ],
    [
      'a password that is wrong',
      () => ({ launch_credentials: { username: server.accounts.launch.user, password: 'env:WRONG' } }),
      'name:ok tcp:ok secret:ok tls:ok sign_in:failed',
      /password|launch credentials/,
      /account/,
    ],
    [
      'a server that says nothing',
      () => ({ port: (silent.address() as { port: number }).port }),
      'name:ok tcp:ok secret:ok tls:skipped sign_in:failed',
      /did not go on|time/,
      /kind of server/,
    ],
    [
      'a database that is not there',
      () => ({ database: 'nonsense' }),
      'name:ok tcp:ok secret:ok tls:ok sign_in:failed',
      /nonsense/,
      /./,
    ],
  ])('%s', async (_, change, line, detail, hint) => {
    const outcome = await check(change());
    const seen = steps(outcome);
    expect(outcome.code).toBe(4);
    expect(seen.line).toBe(line);
    expect(seen.failed?.detail).toMatch(detail);
    expect(seen.failed?.hint ?? '-').toMatch(hint);
  });

  test('MariaDB: a resource that works, a wrong password, and a server of another kind', async () => {
    const mariadb = await startMariadb();
    try {
      await mariadb.run(`CREATE USER app IDENTIFIED BY '${server.accounts.launch.password}'`);
      const resource = {
        type: 'mariadb',
        port: mariadb.port,
        database: undefined,
        tls: { ca: mariadb.caFile },
        launch_credentials: { username: 'app', password: 'env:RIGHT' },
      };
      const right = await check(resource);
      expect(steps(right).line).toBe('name:ok tcp:ok secret:ok tls:ok sign_in:ok');
      expect(right.code).toBe(0);
      const wrong = await check({
        ...resource,
        launch_credentials: { username: 'app', password: 'env:WRONG' },
      });
      expect(steps(wrong).line).toBe('name:ok tcp:ok secret:ok tls:ok sign_in:failed');
      const asPostgres = await check({ ...resource, type: 'postgres' });
      expect(asPostgres.code).toBe(4);
      expect(steps(asPostgres).failed?.hint).toMatch(/kind of server/);
      const asMysql = await check({ ...resource, port: server.port });
      expect(asMysql.code).toBe(4);
      expect(steps(asMysql).failed?.hint).toMatch(/kind of server/);
    } finally {
      await mariadb.stop();
    }
  });

  test('SQL Server, by a double', async () => {
    const issued = await authority.issue({ commonName: 'sql', hosts: ['127.0.0.1'] });
    const double = await startTdsDouble({
      encryption: 'required',
      certificate: issued,
      logins: { app: server.accounts.launch.password ?? '' },
    });
    const resource = {
      type: 'sqlserver',
      port: double.port,
      database: undefined,
      launch_credentials: { username: 'app', password: 'env:RIGHT' },
    };
    const right = await check(resource);
    expect(steps(right).line).toBe('name:ok tcp:ok secret:ok tls:ok sign_in:ok');
    const wrong = await check({
      ...resource,
      launch_credentials: { username: 'app', password: 'env:WRONG' },
    });
    expect(steps(wrong).line).toBe('name:ok tcp:ok secret:ok tls:ok sign_in:failed');
    const asPostgres = await check({ ...resource, type: 'postgres' });
    expect(steps(asPostgres).failed?.hint).toMatch(/kind of server/);
    await double.close();
  });

  test('no output held a password', () => {
    expect(outputs.length).toBeGreaterThan(8);
    expect(outputs.join('')).not.toContain(CANARY);
    expect(outputs.join('')).not.toContain(server.accounts.launch.password);
  });
});
