import type { Challenge, MysqlSettings } from '../engine.ts';

/**
 * What the handshake hands to the observer: all that the command phase's layout and meaning depend on.
 *
 * One set of capabilities holds on both legs: what the client asked for, cut to what the greeting offered it, and
 * nothing else reached the server for the bits that change the stream. Neither leg is compressed: the greeting offers no
 * compression and the sign-in asks for none.
 */
export interface SessionFacts {
  /**
   * CLIENT_* flags in force on both legs, as an unsigned 32-bit number. The bits that only shape a sign-in
   * (`SSL`, `PLUGIN_AUTH`, `CONNECT_ATTRS`, `PLUGIN_AUTH_LENENC_CLIENT_DATA`, `SECURE_CONNECTION`) are the client's leg's:
   * they decide how the client lays out COM_CHANGE_USER.
   */
  readonly capabilities: number;
  /** MariaDB's extended capabilities in force on both legs (bit 0 is PROGRESS); 0 toward MySQL. */
  readonly extended: number;
  /** As in the server's greeting. */
  readonly serverVersion: string;
  readonly flavor: 'mysql' | 'mariadb';
  /** The collation id of the client's HandshakeResponse (one byte), as it was sent on to the server. */
  readonly collation: number;
  /** Status flags of the server's last OK of the sign-in. */
  readonly status: number;
  /** The account that signed in to the server. */
  readonly account: string;
  /** The database that the sign-in opened; null for none. */
  readonly database: string | null;
  /** The server was told to let this session only read; a reset takes that back, and it must be told again. */
  readonly readOnly: boolean;
  readonly settings: MysqlSettings;
  readonly changeUser: ChangeUserFacts;
}

/** How a client of this session proves itself anew in COM_CHANGE_USER, which Sallyport answers by itself. */
export interface ChangeUserFacts {
  /** What was asked of the client at sign-in; it is asked the same again. */
  readonly challenge: Challenge;
  /** The 20 bytes of the greeting to the client: clients without PLUGIN_AUTH answer to these. */
  readonly greetingScramble: Buffer;
  /** The plugin that the greeting to the client named. */
  readonly plugin: string;
  /** Twenty fresh random bytes of 1 to 127, none of them `$`. */
  scramble(): Buffer;
  /** The client's leg is TLS or a Unix socket: a password may be sent in clear. */
  readonly confidential: boolean;
}
