import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { stringify } from 'yaml';
import { hashPassword } from '../../src/access/passwords.ts';
import { App } from '../../src/app.ts';
import { loadConfig } from '../../src/config/load.ts';
import type { LaunchAnswer, LoginAnswer } from '../../src/http/contract/api.ts';
import { makeLog } from '../../src/log.ts';
import type { AuditJournalEvent, JournalEvent } from '../../src/recording/events.ts';
import { followJournal } from '../../src/recording/follow.ts';
import { identitiesIn, LOCAL_KEY_FILE } from '../../src/recording/keys.ts';

/** A whole gateway in this process, with users, rules and an API: what tests of access talk to. */

/** The password of every user. */
export const USER_PASSWORD = 'canary-user-password';

/** `anna` and `ben` are people, `rita` reviews, `adam` administers. */
export const USERS: Readonly<Record<string, readonly string[]>> = {
  anna: ['developer'],
  ben: ['analyst'],
  rita: ['reviewer'],
  adam: ['admin'],
};

export interface AccessApp {
  readonly app: App;
  readonly folder: string;
  readonly dataDirectory: string;
  readonly url: string;
  /** The log so far. */
  log(): string;
  /** Takes the configuration with `changes` over the first one. */
  reload(changes: object): Promise<void>;
  call(method: string, path: string, options?: CallOptions): Promise<Answer>;
  /** A bearer token of `user`, logged in once. */
  login(user: string): Promise<string>;
  /** A launch with a token. */
  issue(user: string, resource: string, more?: object): Promise<LaunchAnswer & { token: string }>;
  /** The token of a launch that ends in so many milliseconds: shorter than people may ask for. */
  expiring(user: string, resource: string, ms: number): Promise<{ id: string; token: string }>;
  journal(): Promise<JournalEvent[]>;
  audits(action: string): Promise<AuditJournalEvent[]>;
  close(): Promise<void>;
}

export interface CallOptions {
  readonly token?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  // biome-ignore lint/suspicious/noExplicitAny: answers are looked at field by field.
  readonly json: any;
}

let hash: Promise<string> | null = null;

/** Starts it. `config` is what goes over the common parts: resources, listeners, rules. Relative files are in its folder. */
export async function startAccessApp(
  config: object,
  files: Readonly<Record<string, string>> = {},
): Promise<AccessApp> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-access-'));
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(folder, name), content, { mode: 0o600 });
  hash ??= hashPassword(USER_PASSWORD);
  const password = await hash;
  const path = join(folder, 'config.yaml');
  const write = (changes: object): void =>
    writeFileSync(
      path,
      stringify({
        gateway: { data_dir: './data' },
        http: { listen: '127.0.0.1:0' },
        recording: { store: { type: 'directory', path: './recordings' } },
        secrets: { env: { type: 'env' } },
        users: Object.fromEntries(Object.entries(USERS).map(([name, roles]) => [name, { password, roles }])),
        rules: [{ name: 'everybody' }],
        api: { admins: { roles: ['admin'] }, reviewers: { roles: ['reviewer'] } },
        ...config,
        ...changes,
      }),
    );
  write({});
  let logged = '';
  const output = new PassThrough();
  output.on('data', (chunk) => {
    logged += chunk;
  });
  const log = makeLog('json', 'debug', output);
  const app = await App.start(await loadConfig(path), log).catch((error) => {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  });
  const url = `http://${app.httpAddress}`;
  const dataDirectory = join(folder, 'data');
  const tokens = new Map<string, string>();
  const call: AccessApp['call'] = async (method, route, options = {}) => {
    const answer = await fetch(`${url}${route}`, {
      method,
      headers: {
        ...(options.token === undefined ? {} : { authorization: `Bearer ${options.token}` }),
        ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...options.headers,
      },
      ...(options.body === undefined
        ? {}
        : { body: typeof options.body === 'string' ? options.body : JSON.stringify(options.body) }),
    });
    const text = await answer.text();
    const isJson = answer.headers.get('content-type')?.includes('json') ?? false;
    return {
      status: answer.status,
      headers: answer.headers,
      text,
      json: isJson && text !== '' ? JSON.parse(text) : null,
    };
  };
  const login = async (user: string): Promise<string> => {
    const known = tokens.get(user);
    if (known !== undefined) return known;
    const answer = await call('POST', '/api/v1/login', { body: { user, password: USER_PASSWORD } });
    if (answer.status !== 200) throw new Error(`no login for ${user}: ${answer.text}`);
    const { token } = answer.json as LoginAnswer;
    tokens.set(user, token);
    return token;
  };
  const issue: AccessApp['issue'] = async (user, resource, more = {}) => {
    const answer = await call('POST', '/api/v1/launches', {
      token: await login(user),
      body: { resource, ...more },
    });
    if (answer.status !== 200) throw new Error(`no launch for ${user}: ${answer.text}`);
    return answer.json as LaunchAnswer & { token: string };
  };
  const journal = async (): Promise<JournalEvent[]> => {
    await app.journal.flushed();
    return readJournal(dataDirectory);
  };
  return {
    app,
    folder,
    dataDirectory,
    url,
    log: () => logged,
    reload: async (changes) => {
      write(changes);
      await app.reload(await loadConfig(path));
    },
    call,
    login,
    issue,
    expiring: async (user, resource, ms) => {
      const { id, token } = await issue(user, resource);
      const { state } = app.access;
      const shorter = `${id.slice(0, -1)}${id.endsWith('a') ? 'b' : 'a'}`;
      state.addLaunch({ ...state.launch(id)!, id: shorter, expiresAt: Date.now() + ms });
      return { id: shorter, token };
    },
    journal,
    audits: async (action) =>
      (await journal()).filter(
        (event): event is AuditJournalEvent => event.type === 'audit' && event.action === action,
      ),
    close: async () => {
      await app.stop(0);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** A journal without news for this long is taken to be read. */
const JOURNAL_QUIET_MS = 400;

/** What is in the journal of a data directory by now. */
export async function readJournal(dataDirectory: string): Promise<JournalEvent[]> {
  const key = join(dataDirectory, LOCAL_KEY_FILE);
  const abort = new AbortController();
  const quiet = setTimeout(() => abort.abort(), JOURNAL_QUIET_MS);
  const events: JournalEvent[] = [];
  const identities = identitiesIn(readFileSync(key, 'utf8'), key);
  for await (const { event } of followJournal(dataDirectory, identities, abort.signal)) {
    quiet.refresh();
    events.push(event);
  }
  return events;
}

/** Waits until `condition` holds. */
export async function eventually(
  condition: () => boolean | Promise<boolean>,
  withinMs = 10_000,
): Promise<void> {
  const end = Date.now() + withinMs;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('it did not come about in time');
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
