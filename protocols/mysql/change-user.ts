import { Refusal } from '../error.ts';
import { NATIVE, NATIVE_REPLY_BYTES, nativeMatches } from './auth/native.ts';
import { CACHING_SHA2, FAST_AUTH_SUCCESS, SHA2_REPLY_BYTES, SHA256, sha2Matches } from './auth/sha2.ts';
import { MULTI_STATEMENTS, PLUGIN_AUTH, SECURE_CONNECTION } from './capabilities.ts';
import { charsetNameOf, charsetOfCollation } from './charset.ts';
import { COM_INIT_DB, COM_QUERY, COM_RESET_CONNECTION } from './commands.ts';
import { type Conversation, Exchange } from './conversation.ts';
import { type Fields, packet } from './packets.ts';
import { ERROR_CODES, type ErrorCode, errorPacket } from './refuse.ts';

/**
 * COM_CHANGE_USER, answered here: the account on the server is Sallyport's and stays so. The client proves itself anew as
 * at its sign-in, in the order in which servers do it (they always ask by an AuthSwitchRequest, so that every client can).
 * The session's state on the server is reset by COM_RESET_CONNECTION, then given the charset and database that the client
 * asks for: what is left is what a new sign-in would have.
 *
 *   client: COM_CHANGE_USER ──▶ (all before it answered) ──▶ AuthSwitchRequest ──▶ reply ──▶ [fast success]
 *   server: COM_RESET_CONNECTION, SET …, COM_INIT_DB ──▶ three replies that the client does not see ──▶ client: OK
 */

/** What a client asks for in COM_CHANGE_USER ("COM_CHANGE_USER" in the protocol documentation). */
export interface ChangeUserRequest {
  readonly user: string;
  readonly reply: Buffer;
  readonly database: string;
  /** The same as sent, in the charset that it asks for. */
  readonly databaseBytes: Buffer;
  /** The collation id; null where the packet ends before it. */
  readonly collation: number | null;
  readonly plugin: string;
  readonly malformed: boolean;
  /** It is a COM_RESET_CONNECTION, answered here where the server must be told something behind it. */
  readonly resetOnly: boolean;
}

/** COM_RESET_CONNECTION of a session that may only read. */
export const RESET_ONLY: ChangeUserRequest = {
  user: '',
  reply: Buffer.alloc(0),
  database: '',
  databaseBytes: Buffer.alloc(0),
  collation: null,
  plugin: '',
  malformed: false,
  resetOnly: true,
};

interface ServerCommand {
  readonly reply: 'one' | 'result';
  readonly payload: Buffer;
  /** As it stands on record. */
  readonly shown: string;
}

const CLEAR = 'mysql_clear_password';

/** What a session that may only read is held to by the server itself. */
export const READ_ONLY = 'SET SESSION TRANSACTION READ ONLY';

/** Reads the packet as the client's own capabilities lay it out; `fields` stands behind the command byte. */
export function readChangeUser(fields: Fields, conversation: Conversation): ChangeUserRequest {
  const { capabilities } = conversation.facts;
  const user = fields.untilNul().toString().slice(0, 128);
  const reply = capabilities & SECURE_CONNECTION ? fields.slice(fields.uint8()) : fields.untilNul();
  const database = fields.untilNul();
  const malformed = fields.short;
  const collation = fields.remaining >= 2 ? fields.uint16() : null;
  const charset = collation === null ? conversation.charset : charsetOfCollation(collation);
  const plugin =
    capabilities & PLUGIN_AUTH && fields.remaining > 0 ? fields.untilNul().toString('latin1') : '';
  return {
    user,
    reply: Buffer.from(reply),
    database: charset.decode(database, 0, Math.min(database.length, 1024)),
    databaseBytes: Buffer.from(database),
    collation,
    plugin: plugin.slice(0, 64),
    malformed,
    resetOnly: false,
  };
}

/** What the exchange asks of the client's direction. */
export interface ChangeUserPort {
  /** The client's next packet is for `reply`: its payload and sequence number. */
  expectAuth(reply: (payload: Buffer, sequence: number) => void): void;
  /** Commands are read again. */
  unblock(): void;
  fail(refusal: Refusal): void;
}

/** Works one COM_CHANGE_USER through, from its turn to its answer. */
export class ChangeUser {
  readonly #conversation: Conversation;
  readonly #port: ChangeUserPort;
  readonly #request: ChangeUserRequest;
  readonly #exchange: Exchange;
  #sequence: number;
  #failure: { code: ErrorCode; message: string } | null = null;

  constructor(
    conversation: Conversation,
    port: ChangeUserPort,
    request: ChangeUserRequest,
    exchange: Exchange,
  ) {
    this.#conversation = conversation;
    this.#port = port;
    this.#request = request;
    this.#exchange = exchange;
    this.#sequence = exchange.sequence;
  }

  /** All that came before is answered. */
  begin(): void {
    const conversation = this.#conversation;
    const { facts, sink } = conversation;
    const { challenge, greetingScramble } = facts.changeUser;
    this.#sequence = this.#exchange.sequence;
    conversation.changing = this.#exchange;
    conversation.sequence = this.#sequence;
    if (this.#request.resetOnly) {
      this.#resetServer();
      return;
    }
    if (this.#request.malformed) {
      this.#refuse(new Refusal('protocol_violation', 'the COM_CHANGE_USER packet is cut short'));
      return;
    }
    if (challenge.method === 'bearer') {
      this.#answer({
        code: ERROR_CODES.option_not_allowed,
        message: 'this sign-in cannot be repeated within a connection: open a new one',
      });
      return;
    }
    if (!(facts.capabilities & PLUGIN_AUTH)) {
      this.#judge(NATIVE, this.#request.reply, greetingScramble);
      return;
    }
    const plugin = this.#plugin();
    const scramble = facts.changeUser.scramble();
    const request = Buffer.concat([
      Buffer.of(0xfe),
      Buffer.from(`${plugin}\0`, 'latin1'),
      scramble,
      Buffer.of(0),
    ]);
    sink.toClient(packet(this.#sequence, request));
    this.#port.expectAuth((payload, sequence) => {
      this.#sequence = (sequence + 1) & 0xff;
      conversation.sequence = this.#sequence;
      this.#judge(plugin, payload, scramble);
    });
  }

  /** The client's own plugin where we can judge it, else the one that our greeting named. */
  #plugin(): string {
    const { plugin: asked } = this.#request;
    const { plugin, confidential } = this.#conversation.facts.changeUser;
    if (asked === NATIVE || asked === CACHING_SHA2) return asked;
    if ((asked === CLEAR || asked === SHA256) && confidential) return asked;
    return plugin === CACHING_SHA2 ? plugin : NATIVE;
  }

  #judge(plugin: string, reply: Buffer, scramble: Buffer): void {
    const conversation = this.#conversation;
    if (!this.#proves(plugin, reply, scramble)) {
      this.#refuse(new Refusal('credentials_invalid', 'access denied: the token is not valid'));
      return;
    }
    if (plugin === CACHING_SHA2 && reply.length === SHA2_REPLY_BYTES) {
      conversation.sink.toClient(packet(this.#sequence, Buffer.of(0x01, FAST_AUTH_SUCCESS)));
      this.#sequence = (this.#sequence + 1) & 0xff;
      conversation.sequence = this.#sequence;
    }
    this.#resetServer();
  }

  #proves(plugin: string, reply: Buffer, scramble: Buffer): boolean {
    const { challenge } = this.#conversation.facts.changeUser;
    if (challenge.method !== 'token') return challenge.method === 'trust';
    const { verifier } = challenge;
    if (plugin === NATIVE) {
      return reply.length === NATIVE_REPLY_BYTES && nativeMatches(verifier.nativeHash, scramble, reply);
    }
    if (plugin === CACHING_SHA2) {
      return reply.length === SHA2_REPLY_BYTES && sha2Matches(verifier.sha2Hash, scramble, reply);
    }
    const end = reply.length > 0 && reply[reply.length - 1] === 0 ? reply.length - 1 : reply.length;
    return verifier.matches(reply.subarray(0, end));
  }

  #resetServer(): void {
    const { resetOnly } = this.#request;
    const { facts, queryAttributes } = this.#conversation;
    const collation = this.#request.collation ?? facts.collation;
    const database = this.#request.database || facts.database || '';
    const attributes = queryAttributes ? [0, 1] : [];
    const commands: ServerCommand[] = [
      { reply: 'one', payload: Buffer.of(COM_RESET_CONNECTION), shown: 'COM_RESET_CONNECTION' },
    ];
    const query = (text: string): void => {
      const payload = Buffer.concat([Buffer.of(COM_QUERY, ...attributes), Buffer.from(text)]);
      commands.push({ reply: 'result', payload, shown: text });
    };
    if (facts.readOnly) query(READ_ONLY);
    if (!resetOnly) query(`SET NAMES ${charsetNameOf(collation)}, collation_connection = ${collation}`);
    if (!resetOnly && database !== '') {
      const asked = this.#request.database === '' ? Buffer.from(database) : this.#request.databaseBytes;
      const payload = Buffer.concat([Buffer.of(COM_INIT_DB), asked]);
      commands.push({ reply: 'one', payload, shown: `USE ${database}` });
    }
    this.#send(commands, () => this.#finish(collation, database));
  }

  /** Sends commands whose replies the client does not see; `done` when the last is answered. */
  #send(commands: readonly ServerCommand[], done: () => void): void {
    const conversation = this.#conversation;
    const shown = commands.map((one) => one.shown).join('; ');
    this.#exchange.statement!.messages = [`sent to the server: ${shown}`];
    for (const [index, { reply }] of commands.entries()) {
      const exchange = new Exchange(reply, null);
      exchange.internal = (error) => {
        this.#failure ??= error;
        if (index === commands.length - 1) done();
      };
      conversation.push(exchange);
    }
    conversation.sink.toServer(Buffer.concat(commands.map(({ payload }) => packet(0, payload))));
  }

  #finish(collation: number, database: string): void {
    const conversation = this.#conversation;
    conversation.reset();
    conversation.multiStatements = (conversation.facts.capabilities & MULTI_STATEMENTS) !== 0;
    if (this.#failure === null && !this.#request.resetOnly) {
      conversation.charset = charsetOfCollation(collation);
      if (database !== '') conversation.changeDatabase(database);
      conversation.sink.note({ kind: 'session_changed', what: 'change_user', value: this.#request.user });
    }
    this.#answer(this.#failure);
  }

  /** Tells the client how it went; commands are read again. */
  #answer(error: { code: ErrorCode; message: string } | null): void {
    const conversation = this.#conversation;
    const statement = this.#exchange.statement!;
    conversation.changing = null;
    if (error === null) {
      const { status } = conversation;
      const ok = Buffer.of(0, 0, 0, status & 0xff, (status >>> 8) & 0xff & ~0x40, 0, 0);
      conversation.sink.toClient(packet(this.#sequence, ok));
    } else {
      statement.error = { code: `${error.code.errno}/${error.code.sqlstate}`, message: error.message };
      conversation.sink.toClient(errorPacket(this.#sequence, error.code, error.message));
    }
    conversation.sequence = -1;
    conversation.end(statement, error === null ? 'ok' : 'error', 0);
    this.#port.unblock();
  }

  /** The session ends: the client hears it as the session's last words, at this place in the exchange. */
  #refuse(refusal: Refusal): void {
    const conversation = this.#conversation;
    const statement = this.#exchange.statement!;
    const { errno, sqlstate } = ERROR_CODES[refusal.code];
    conversation.changing = null;
    statement.error = { code: `${errno}/${sqlstate}`, message: refusal.message };
    conversation.end(statement, 'denied', 0);
    this.#port.fail(refusal);
  }
}
