import { createHash } from 'node:crypto';
import { Reader, Writer } from '../bytes.ts';
import type { Channel } from '../channel.ts';
import type { Credentials, PostgresSettings } from '../engine.ts';
import { ProtocolError } from '../error.ts';
import { tlsServerEndPoint } from '../scram/channel-binding.ts';
import { type Binding, type ScramAnswered, startScram } from '../scram/client.ts';
import type { DerivedKeys } from '../scram/keys.ts';
import { ITERATIONS_MIN, NONCE_BYTES } from '../scram/limits.ts';
import { SCRAM_SHA_256, SCRAM_SHA_256_PLUS } from '../scram/server.ts';
import { AUTHENTICATION, message } from './packets.ts';

const OAUTHBEARER = 'OAUTHBEARER';

export interface ServerAuthenticationOptions {
  readonly credentials: Credentials;
  readonly settings: PostgresSettings;
  readonly derivedKeys: DerivedKeys;
  readonly random: (length: number) => Buffer;
}

/**
 * Answers a server's authentication requests with the launch credentials.
 *
 * What a rogue or hijacked server could turn against us is not done: a password in clear goes only over TLS that has
 * verified the server, or a Unix socket; an access token only over the former; MD5 (which can be relayed and guessed
 * from) there, within this machine, or where the settings say so; SCRAM always, but its proof only after checks of the server's message. Every exchange must
 * be finished: AuthenticationOk in the middle of SCRAM is a server that could not prove itself.
 *
 * Each call takes one request; states that cannot go on throw a `ProtocolError` of the server's fault.
 */
export class ServerAuthentication {
  readonly #server: Channel;
  readonly #options: ServerAuthenticationOptions;
  #state: State = { expects: 'first_request' };
  /** Answers that hold a password in clear: wiped when the server has spoken again, so they have been sent. */
  #sent: Buffer | null = null;
  #derivedFrom: { salt: Buffer; iterations: number } | null = null;

  constructor(server: Channel, options: ServerAuthenticationOptions) {
    this.#server = server;
    this.#options = options;
  }

  /**
   * Takes one authentication request (the body of an `R` message). Resolves to the method's name when it was
   * AuthenticationOk, to null when it was answered and more must come.
   */
  async request(body: Buffer): Promise<string | null> {
    this.wipe();
    const reader = new Reader(body, 'server');
    const code = reader.int32be('authentication code');
    if (code === AUTHENTICATION.ok) return this.#ok();
    const state = this.#state;
    switch (code) {
      case AUTHENTICATION.cleartext:
        this.#expectFirst();
        return this.#sendCleartext();
      case AUTHENTICATION.md5:
        this.#expectFirst();
        return this.#sendMd5(reader.slice(4, 'MD5 salt'));
      case AUTHENTICATION.sasl:
        this.#expectFirst();
        return this.#startSasl(readMechanisms(reader));
      case AUTHENTICATION.saslContinue:
        if (state.expects === 'oauth_result') return this.#endOauth();
        if (state.expects !== 'server_first') throw unexpected();
        return this.#answerScram(state, reader.rest());
      case AUTHENTICATION.saslFinal:
        if (state.expects !== 'server_final') throw unexpected();
        state.exchange.verify(reader.rest());
        this.#state = { expects: 'ok', method: state.method };
        return null;
      default:
        throw unsupported(unsupportedMethod(code));
    }
  }

  /** The server refused the credentials: keys derived from them are of no use to anybody. */
  rejected(): void {
    const password = this.#options.credentials.password;
    if (this.#derivedFrom === null || password === null || password.wiped) return;
    const { salt, iterations } = this.#derivedFrom;
    this.#options.derivedKeys.forget(password.expose(), salt, iterations);
  }

  /** Zeroes what was sent in clear. */
  wipe(): void {
    this.#sent?.fill(0);
    this.#sent = null;
  }

  #ok(): string {
    const state = this.#state;
    const { channelBinding } = this.#options.settings;
    if (state.expects === 'server_first' || state.expects === 'server_final') {
      throw new ProtocolError(
        'server_untrusted',
        'server',
        'the server let us in without proving that it knows the account (no SCRAM signature)',
      );
    }
    const method = state.expects === 'ok' ? state.method : this.#methodWithoutRequest();
    if (channelBinding === 'require' && method !== 'scram-sha-256-plus') throw bindingRequired(method);
    return method;
  }

  #methodWithoutRequest(): string {
    if (this.#state.expects === 'oauth_result') return 'oauthbearer';
    return this.#server.tls?.localCertificate ? 'cert' : 'trust';
  }

  #expectFirst(): void {
    if (this.#state.expects !== 'first_request') {
      throw new ProtocolError(
        'unexpected_message',
        'server',
        'the server asked for a second way of authentication after the first',
      );
    }
  }

  #password(method: string): Buffer {
    const { password } = this.#options.credentials;
    if (password === null)
      throw unsupported(`${method}, and the launch credentials of this resource have no password`);
    return password.expose();
  }

  #sendCleartext(): null {
    if (this.#options.settings.channelBinding === 'require') throw bindingRequired('a password in clear');
    const password = this.#password('a password');
    if (this.#server.tls?.verified !== true && !isUnixSocket(this.#server.remote.host)) {
      throw unsupported(
        'a password in clear, which is only sent over TLS that verifies the server (tls.mode verify-ca or verify-full)',
      );
    }
    this.#send(new Writer(password.length + 1).append(password).uint8(0).take());
    this.#state = { expects: 'ok', method: 'password' };
    return null;
  }

  #sendMd5(salt: Buffer): null {
    const { credentials, settings } = this.#options;
    if (settings.channelBinding === 'require') throw bindingRequired('an MD5 password');
    if (credentials.kind === 'token') throw unsupported('an MD5 password, and there is an access token');
    const password = this.#password('an MD5 password');
    const { tls, remote } = this.#server;
    if (tls?.verified !== true && !settings.md5WithoutTls && !isThisMachine(remote.host)) {
      throw unsupported(
        'an MD5 password, which is only sent over TLS that verifies the server; set a SCRAM password for the account, ' +
          'or allow it by md5_without_tls',
      );
    }
    const inner = createHash('md5').update(password).update(credentials.username).digest('hex');
    const outer = createHash('md5').update(inner).update(salt).digest('hex');
    this.#send(new Writer().cstring(`md5${outer}`).take());
    this.#state = { expects: 'ok', method: 'md5' };
    return null;
  }

  #startSasl(mechanisms: readonly string[]): null {
    const { credentials } = this.#options;
    if (credentials.kind === 'token') return this.#startOauth(mechanisms);
    this.#password('a SCRAM password');
    const binding = this.#chooseBinding(mechanisms);
    const mechanism = binding.kind === 'bound' ? SCRAM_SHA_256_PLUS : SCRAM_SHA_256;
    if (!mechanisms.includes(mechanism)) {
      throw unsupported(`SASL mechanisms that are not known (${mechanisms.map(printable).join(', ')})`);
    }
    const exchange = startScram({
      binding,
      nonce: this.#options.random(NONCE_BYTES).toString('base64'),
      iterationsMax: this.#options.settings.scramIterationsMax,
      iterationsMin: this.#server.tls?.verified === true ? 1 : ITERATIONS_MIN,
      derive: (salt, iterations) => {
        this.#derivedFrom = { salt, iterations };
        const password = this.#password('a SCRAM password');
        return this.#options.derivedKeys.derive(password, salt, iterations, this.#options.random);
      },
    });
    this.#send(saslInitialResponse(mechanism, exchange.message));
    const method = binding.kind === 'bound' ? 'scram-sha-256-plus' : 'scram-sha-256';
    this.#state = { expects: 'server_first', method, answer: exchange.answer };
    return null;
  }

  /**
   * Channel binding where the server offers it and its certificate can be bound to. Never says "not offered" when it
   * was: the server would take that for an attack, rightly.
   */
  #chooseBinding(mechanisms: readonly string[]): Binding {
    const { channelBinding } = this.#options.settings;
    const certificate = this.#server.tls?.peerCertificate ?? null;
    const data = channelBinding === 'disable' || certificate === null ? null : tlsServerEndPoint(certificate);
    const offered = mechanisms.includes(SCRAM_SHA_256_PLUS);
    if (data !== null && offered && this.#server.tls !== null) return { kind: 'bound', data };
    if (channelBinding === 'require') {
      throw bindingRequired(
        this.#server.tls === null
          ? 'no TLS'
          : offered
            ? 'a certificate whose signature has no hash to bind to (Ed25519 and its kind)'
            : 'SCRAM without channel binding',
      );
    }
    return { kind: data !== null && !offered ? 'not_offered' : 'none' };
  }

  async #answerScram(state: StateOf<'server_first'>, serverFirst: Buffer): Promise<null> {
    const exchange = await state.answer(serverFirst);
    this.#send(exchange.message);
    this.#state = { expects: 'server_final', method: state.method, exchange };
    return null;
  }

  /** OAUTHBEARER (RFC 7628): the token at once; the server's answer is AuthenticationOk or a challenge that means no. */
  #startOauth(mechanisms: readonly string[]): null {
    if (!mechanisms.includes(OAUTHBEARER)) {
      throw unsupported('a SCRAM password, and the launch credentials are an access token');
    }
    if (this.#server.tls?.verified !== true) {
      throw unsupported('an access token, which is only sent over TLS that verifies the server');
    }
    const token = this.#password('an access token');
    const response = Buffer.concat([
      Buffer.from('n,,\u0001auth=Bearer '),
      token,
      Buffer.from('\u0001\u0001'),
    ]);
    this.#send(saslInitialResponse(OAUTHBEARER, response));
    response.fill(0);
    this.#state = { expects: 'oauth_result' };
    return null;
  }

  /** The challenge holds the reasons; one byte 0x01 asks for the error to come. */
  #endOauth(): null {
    this.#send(Buffer.from([1]));
    this.#state = { expects: 'error' };
    return null;
  }

  #send(body: Buffer): void {
    const bytes = message('p', body);
    body.fill(0);
    this.#sent = bytes;
    this.#server.write(bytes);
  }
}

type State =
  | { readonly expects: 'first_request' }
  | {
      readonly expects: 'server_first';
      readonly method: string;
      readonly answer: (serverFirst: Buffer) => Promise<ScramAnswered>;
    }
  | { readonly expects: 'server_final'; readonly method: string; readonly exchange: ScramAnswered }
  | { readonly expects: 'oauth_result' }
  | { readonly expects: 'error' }
  | { readonly expects: 'ok'; readonly method: string };
type StateOf<Name extends State['expects']> = Extract<State, { expects: Name }>;

function readMechanisms(reader: Reader): string[] {
  const mechanisms: string[] = [];
  while (reader.remaining > 0) {
    const name = reader.cstring('SASL mechanism').toString('latin1');
    if (name === '') break;
    mechanisms.push(name);
  }
  return mechanisms;
}

function saslInitialResponse(mechanism: string, response: Buffer): Buffer {
  return new Writer(64 + response.length).cstring(mechanism).int32be(response.length).append(response).take();
}

/** The file system says who listens there, and no wire lies between. */
function isUnixSocket(host: string): boolean {
  return host.startsWith('/');
}

/** Addresses that no network lies between. */
function isThisMachine(host: string): boolean {
  return isUnixSocket(host) || host === 'localhost' || host === '::1' || /^127(\.\d+){3}$/.test(host);
}

function unsupportedMethod(code: number): string {
  if (code === AUTHENTICATION.gss || code === AUTHENTICATION.sspi || code === AUTHENTICATION.kerberos) {
    return 'Kerberos (GSSAPI or SSPI), which Sallyport does not speak';
  }
  return `an unknown way of authentication (${code})`;
}

function unsupported(what: string): ProtocolError {
  return new ProtocolError('authentication_unsupported', 'server', `the server asks for ${what}`);
}

function bindingRequired(what: string): ProtocolError {
  return new ProtocolError(
    'server_untrusted',
    'server',
    `channel_binding is "require", and the server came with ${what}`,
  );
}

function unexpected(): ProtocolError {
  return new ProtocolError(
    'unexpected_message',
    'server',
    'a SASL message came when none was expected of the server',
  );
}

function printable(text: string): string {
  return text.slice(0, 40).replaceAll(/[^ -~]/g, '?');
}
