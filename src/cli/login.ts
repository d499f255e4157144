import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { userInfo } from 'node:os';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { z } from 'zod';
import {
  codeStart,
  deviceStart,
  type LoginAnswer,
  loginAnswer,
  loginMethods,
  pending,
} from '../http/contract/api.ts';
import { forgetLogin, GatewayClient, readLogin, saveLogin } from './gateway-client.ts';
import { promptHidden } from './prompt.ts';

/** The person has this long in the browser. Ours. */
const BROWSER_MS_MAX = 10 * 60_000;

interface LoginOptions {
  readonly user?: string;
  readonly ca?: string;
  readonly browser: boolean;
  readonly passwordStdin?: boolean;
}

export function register(program: Command): void {
  program
    .command('login')
    .summary('log in to a gateway')
    .description(
      'Logs in to a gateway: by password for local users, else with its OpenID provider, in the browser or (--no-browser) by a code to type elsewhere. The login is kept in a file that only you can read.',
    )
    .argument(
      '[gateway]',
      'URL of the gateway, https://gateway.example:7070; default: that of the last login',
    )
    .option('-u, --user <name>', 'log in with a password as this local user')
    .option('--ca <file>', "authorities to trust for the gateway's certificate (PEM)")
    .option('--no-browser', 'show a code to type in a browser elsewhere')
    .option('--password-stdin', 'read the password from standard input')
    .action(login);
}

export function registerLogout(program: Command): void {
  program
    .command('logout')
    .summary('end the login')
    .description('Ends the login at the gateway and forgets it here.')
    .action(async () => {
      const saved = readLogin();
      if (saved !== null)
        await new GatewayClient(saved).post('/logout', undefined, z.unknown()).catch((error: Error) => {
          console.error(`the gateway was not told: ${error.message}`);
        });
      forgetLogin();
      console.log('Logged out.');
    });
}

async function login(address: string | undefined, options: LoginOptions): Promise<void> {
  const gateway = (address ?? readLogin()?.gateway)?.replace(/\/+$/, '');
  if (gateway === undefined)
    throw new Error('name the gateway: sallyport login https://gateway.example:7070');
  if (!/^(?:https?:\/\/|unix:)/.test(gateway) || !URL.canParse(gateway))
    throw new Error(`${gateway} is no URL of a gateway; write https://gateway.example:7070`);
  const client = new GatewayClient({ gateway, token: null, ca: options.ca });
  const methods = await client.get('/login', loginMethods);
  const byPassword = options.user !== undefined || options.passwordStdin === true || !methods.oidc;
  if (byPassword && !methods.password) throw new Error(`${gateway} has no local users; leave --user out`);
  const answer = byPassword
    ? await withPassword(client, options)
    : options.browser
      ? await withBrowser(client)
      : await withDevice(client);
  saveLogin({
    gateway,
    token: answer.token,
    principal: answer.principal,
    expires_at: answer.expires_at,
    ...(options.ca === undefined ? {} : { ca: resolve(options.ca) }),
    ...(client.cookies.text === '' ? {} : { cookies: client.cookies.text }),
  });
  const roles = answer.roles.length === 0 ? 'no roles' : answer.roles.join(', ');
  console.log(
    `Logged in as ${answer.principal} (${roles}) until ${new Date(answer.expires_at).toLocaleString()}.`,
  );
}

async function withPassword(client: GatewayClient, options: LoginOptions): Promise<LoginAnswer> {
  const user = options.user ?? userInfo().username;
  const password =
    options.passwordStdin === true || !process.stdin.isTTY
      ? await firstLine(process.stdin)
      : await promptHidden(`Password of ${user}: `, process.stdin, process.stderr);
  return client.post('/login', { user, password }, loginAnswer);
}

async function withDevice(client: GatewayClient): Promise<LoginAnswer> {
  const started = await client.post('/login/device', undefined, deviceStart);
  console.log(`Open ${started.verification_uri} and type ${started.user_code}`);
  if (started.verification_uri_complete !== null) console.log(`or open ${started.verification_uri_complete}`);
  const path = `/login/device/${started.flow}`;
  const end = Date.parse(started.expires_at);
  while (Date.now() < end) {
    await sleep(started.interval_seconds * 1000);
    const answer = await client.post(path, undefined, z.union([loginAnswer, pending]));
    if (!('pending' in answer)) return answer;
  }
  throw new Error('nobody finished the sign-in in time');
}

/** The browser comes back to a port of this process, which hands what it brings to the gateway. */
async function withBrowser(client: GatewayClient): Promise<LoginAnswer> {
  let arrived: (path: string) => void = () => {};
  const callback = new Promise<string>((resolve) => {
    arrived = resolve;
  });
  const server = createServer((request, response) => {
    const path = request.url ?? '/';
    if (!path.startsWith('/callback?')) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8', connection: 'close' });
    response.end('You are done here. Go back to the terminal.\n');
    arrived(path);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const redirect = `http://127.0.0.1:${port}/callback`;
  const late = new AbortController();
  try {
    const started = await client.post('/login/code', { redirect_uri: redirect }, codeStart);
    console.log(`Opening the browser. If it does not, open\n${started.authorization_url}`);
    openBrowser(started.authorization_url);
    const path = await Promise.race([
      callback,
      sleep(BROWSER_MS_MAX, null, { signal: late.signal }).then(() => {
        throw new Error('nobody finished the sign-in in time');
      }),
    ]);
    return await client.post(
      `/login/code/${started.flow}`,
      { callback_url: `http://127.0.0.1:${port}${path}` },
      loginAnswer,
    );
  } finally {
    late.abort();
    server.close();
    server.closeAllConnections();
  }
}

function openBrowser(url: string): void {
  const [command, ...args] =
    process.platform === 'darwin'
      ? ['open', url]
      : process.platform === 'win32'
        ? ['explorer', url]
        : ['xdg-open', url];
  spawn(command!, args, { stdio: 'ignore', detached: true })
    .on('error', () => {})
    .unref();
}

async function firstLine(input: NodeJS.ReadableStream): Promise<string> {
  let text = '';
  for await (const chunk of input) {
    text += String(chunk);
    if (text.includes('\n') || text.length > 4096) break;
  }
  return text.split(/\r?\n/)[0]!;
}
