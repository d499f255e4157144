import type { Duplex } from 'node:stream';
import { buildLogin7, parseLogin7, scramble, utf16 } from '../../protocols/tds/login7.ts';
import { buildMessage } from '../../protocols/tds/messages.ts';
import type { TdsVersion } from '../../protocols/tds/session.ts';
import { vectorPayload } from './tds-vectors.ts';

/** The two peers of a sign-in, played by a script: what a client sends, and a server that answers by rote. */

export const CLIENT_PASSWORD = 'canary-client';

/** FreeTDS's PRELOGIN, as of a client that cannot encrypt (2), or as `encryption` says. */
export function preloginPacket(encryption = 2, mars = false): Buffer {
  const payload = vectorPayload('lab-freetds-prelogin-1');
  payload[0x20] = encryption;
  payload[0x31] = mars ? 1 : 0;
  return buildMessage(0x12, payload, 4096);
}

export interface ScriptedLogin {
  readonly from?: string;
  readonly version?: TdsVersion;
  readonly user?: string;
  readonly password?: string;
  readonly database?: string;
  readonly features?: { id: number; data: Buffer }[] | null;
  readonly integrated?: boolean;
  readonly packetBytes?: number;
  /** Changes the finished payload. */
  change?(payload: Buffer): void;
}

/** LOGIN7 of a recorded client (FreeTDS unless `from` names another) with these fields. */
export function loginPayload(options: ScriptedLogin = {}): Buffer {
  const login = parseLogin7(vectorPayload(options.from ?? 'lab-freetds-login7-1'));
  const payload = buildLogin7(login, {
    version: options.version ?? login.version,
    packetBytes: options.packetBytes ?? login.packetBytes,
    serverName: 'localhost',
    database: options.database ?? 'db1',
    userName: utf16(options.user ?? 'alice'),
    password: utf16(options.password ?? CLIENT_PASSWORD),
    sspi: options.integrated ? Buffer.from('NTLMSSP\0\x01\0\0\0', 'latin1') : Buffer.alloc(0),
    features: options.features === undefined ? login.features : options.features,
  });
  options.change?.(payload);
  return payload;
}

export function loginPacket(options: ScriptedLogin = {}, packetBytes = 4096): Buffer {
  return buildMessage(0x10, loginPayload(options), packetBytes);
}

export const SERVER_PRELOGIN = buildMessage(0x04, vectorPayload('sql2008sp3-prelogin-response'), 4096);
export const SERVER_LOGIN = buildMessage(0x04, vectorPayload('sql2008sp3-login-response'), 4096, 60);

/** A server that answers the n-th message with the n-th of `answers`, and then closes or stays silent. */
export function answering(answers: readonly Buffer[], then: 'stay' | 'close' = 'stay') {
  return (peer: Duplex): { readonly received: Buffer } => {
    const seen: Buffer[] = [];
    let pending = Buffer.alloc(0);
    let next = 0;
    peer.on('data', (chunk: Buffer) => {
      seen.push(chunk);
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 8 && pending.length >= pending.readUInt16BE(2)) {
        const last = (pending[1]! & 1) !== 0;
        pending = pending.subarray(pending.readUInt16BE(2));
        if (!last) continue;
        const answer = answers[next];
        next += 1;
        if (answer !== undefined) peer.write(answer);
        if (next >= answers.length && then === 'close') peer.end();
      }
    });
    return {
      get received() {
        return Buffer.concat(seen);
      },
    };
  };
}

/** A secret in the forms in which it could leak: UTF-8, UTF-16LE, and as LOGIN7 obfuscates it. */
export function formsOf(secret: string): Buffer[] {
  return [Buffer.from(secret), utf16(secret), scramble(utf16(secret))];
}

/** The ERROR at the start of a server's message to a client: number and text. */
export function errorOf(bytes: Buffer): { number: number; text: string; class: number } | null {
  for (let at = 0; at + 8 <= bytes.length; at += bytes.readUInt16BE(at + 2)) {
    const payload = bytes.subarray(at + 8, at + bytes.readUInt16BE(at + 2));
    if (bytes[at] === 0x04 && payload[0] === 0xaa) {
      const units = payload.readUInt16LE(9);
      return {
        number: payload.readUInt32LE(3),
        class: payload[8]!,
        text: payload.toString('utf16le', 11, 11 + units * 2),
      };
    }
  }
  return null;
}
