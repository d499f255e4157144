import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import {
  command,
  error,
  FLAG,
  factsOf,
  ok,
  packets,
  query,
  type ScriptFacts,
  Session,
  u16,
} from '../../test/support/mysql-scripts.ts';
import type { TokenVerifier } from '../engine.ts';
import { Refusal } from '../error.ts';
import { nativeReply } from './auth/native.ts';
import { CACHING_SHA2, sha2Reply } from './auth/sha2.ts';

const NATIVE = 'mysql_native_password';
const TOKEN = Buffer.from('a token of a launch');
const SCRAMBLE = factsOf().changeUser.scramble();

function sha(name: string, bytes: Buffer): Buffer {
  return createHash(name).update(bytes).digest();
}

const VERIFIER: TokenVerifier = {
  scram: { salt: TOKEN, iterations: 4096, storedKey: TOKEN, serverKey: TOKEN },
  nativeHash: sha('sha1', sha('sha1', TOKEN)),
  sha2Hash: sha('sha256', sha('sha256', TOKEN)),
  matches: (token) => token.equals(TOKEN),
};

function changeUser(plugin: string | null, reply: Buffer, database: string, attributes = ''): Buffer {
  return command(
    0x11,
    'somebody\0',
    reply.length,
    reply,
    `${database}\0`,
    ...(plugin === null ? [] : [u16(45), `${plugin}\0`]),
    attributes,
  );
}

function switchTo(plugin: string): Buffer {
  return packets(1, Buffer.concat([Buffer.of(0xfe), Buffer.from(`${plugin}\0`), SCRAMBLE, Buffer.of(0)]));
}

function reset(collation: number, database: string, attributes = ''): Buffer {
  const set = `SET NAMES ${collation === 45 ? 'utf8mb4' : '?'}, collation_connection = ${collation}`;
  return Buffer.concat([
    command(0x1f),
    command(3, attributes, set),
    ...(database === '' ? [] : [command(2, database)]),
  ]);
}

/** Each packet by itself, or all bytes one by one. */
function feed(session: Session, side: 'client' | 'server', bytes: Buffer, bytewise: boolean): void {
  if (!bytewise) session.observer[side](bytes);
  else for (const byte of bytes) session.observer[side](Buffer.of(byte));
}

const okPacket = (sequence: number) => packets(sequence, ok());

describe.each([false, true])('COM_CHANGE_USER (byte by byte: %s)', (bytewise) => {
  function start(facts: ScriptFacts): Session {
    return new Session({ database: 'lab', ...facts });
  }

  test('keeps the account, asks as servers do, and resets the session behind', () => {
    const session = start({ capabilities: FLAG.connectAttributes });
    feed(session, 'client', changeUser(NATIVE, Buffer.alloc(20, 1), 'other', '\x04\x01k\x01v'), bytewise);
    expect(session.received()).toEqual(switchTo(NATIVE));
    expect(session.sent().length).toBe(0);
    expect(session.observer.saturated).toBe(false);
    feed(session, 'client', packets(2, Buffer.alloc(20, 2)), bytewise);
    expect(session.sent()).toEqual(reset(45, 'other'));
    expect(session.observer.busy).toBe(true);
    // What the client sends meanwhile waits.
    feed(session, 'client', query('select 1'), bytewise);
    expect(session.sent().length).toBe(0);
    feed(session, 'server', Buffer.concat([okPacket(1), okPacket(1), okPacket(1)]), bytewise);
    expect(session.received()).toEqual(okPacket(3));
    expect(session.sent()).toEqual(query('select 1'));
    feed(session, 'server', okPacket(1), bytewise);
    expect(session.received()).toEqual(okPacket(1));
    expect(session.observer.busy).toBe(false);
    expect(session.seen()).toMatchObject([
      { kind: 'command', text: 'COM_CHANGE_USER somebody other', status: 'ok' },
      { kind: 'query', status: 'ok' },
    ]);
    expect(session.notes).toEqual([
      { kind: 'database_changed', database: 'other' },
      { kind: 'session_changed', what: 'change_user', value: 'somebody' },
    ]);
  });

  test('a session that may only read is held to it again behind every reset', () => {
    const readOnly = query('SET SESSION TRANSACTION READ ONLY');
    const session = start({ readOnly: true, database: null });
    feed(session, 'client', Buffer.concat([query('select 1'), command(0x1f), query('select 2')]), bytewise);
    expect(session.sent()).toEqual(query('select 1'));
    feed(session, 'server', okPacket(1), bytewise);
    expect(session.received()).toEqual(okPacket(1));
    expect(session.sent()).toEqual(Buffer.concat([command(0x1f), readOnly]));
    feed(session, 'server', Buffer.concat([okPacket(1), okPacket(1)]), bytewise);
    expect(session.received()).toEqual(okPacket(1));
    expect(session.sent()).toEqual(query('select 2'));
    feed(session, 'server', okPacket(1), bytewise);
    expect(session.received()).toEqual(okPacket(1));
    feed(session, 'client', changeUser(NATIVE, Buffer.alloc(0), ''), bytewise);
    session.received();
    feed(session, 'client', packets(2, ''), bytewise);
    const sent = session.sent().toString('latin1');
    expect(sent.indexOf('READ ONLY')).toBeGreaterThan(0);
    expect(sent.indexOf('READ ONLY')).toBeLessThan(sent.indexOf('SET NAMES'));
    expect(session.seen()[1]).toMatchObject({
      text: 'COM_RESET_CONNECTION',
      status: 'ok',
      messages: ['sent to the server: COM_RESET_CONNECTION; SET SESSION TRANSACTION READ ONLY'],
    });
  });

  test('waits for the commands before it', () => {
    const session = start({});
    feed(
      session,
      'client',
      Buffer.concat([query('select 1'), changeUser(NATIVE, Buffer.alloc(0), '')]),
      bytewise,
    );
    expect(session.received().length).toBe(0);
    expect(session.observer.saturated).toBe(true);
    feed(session, 'server', okPacket(1), bytewise);
    expect(session.received()).toEqual(Buffer.concat([okPacket(1), switchTo(NATIVE)]));
    feed(session, 'client', packets(2, ''), bytewise);
    // The client names no database: the sign-in's is opened again.
    expect(session.sent()).toEqual(Buffer.concat([query('select 1'), reset(45, 'lab')]));
  });

  test('the token is asked for again: native', () => {
    const session = start({ changeUser: { challenge: { method: 'token', verifier: VERIFIER } } });
    feed(session, 'client', changeUser(NATIVE, Buffer.alloc(20, 1), ''), bytewise);
    expect(session.received()).toEqual(switchTo(NATIVE));
    feed(session, 'client', packets(2, nativeReply(TOKEN, SCRAMBLE)), bytewise);
    expect(session.observer.fatal).toBeNull();
    expect(session.sent()).toEqual(reset(45, 'lab'));
  });

  test('the token is asked for again: caching_sha2, with its fast success', () => {
    const session = start({
      capabilities: FLAG.queryAttributes,
      changeUser: { challenge: { method: 'token', verifier: VERIFIER } },
    });
    feed(session, 'client', changeUser(CACHING_SHA2, Buffer.alloc(32, 1), ''), bytewise);
    expect(session.received()).toEqual(switchTo(CACHING_SHA2));
    feed(session, 'client', packets(2, sha2Reply(TOKEN, SCRAMBLE)), bytewise);
    expect(session.received()).toEqual(packets(3, '0103'));
    expect(session.sent()).toEqual(reset(45, 'lab', '\0\x01'));
    feed(session, 'server', Buffer.concat([okPacket(1), okPacket(1), okPacket(1)]), bytewise);
    expect(session.received()).toEqual(okPacket(4));
  });

  test('a wrong token ends the session at that place', () => {
    const session = start({ changeUser: { challenge: { method: 'token', verifier: VERIFIER } } });
    feed(session, 'client', changeUser(NATIVE, Buffer.alloc(20, 1), ''), bytewise);
    feed(session, 'client', packets(2, Buffer.alloc(20, 9)), bytewise);
    expect(session.sent().length).toBe(0);
    const { fatal } = session.observer;
    expect(fatal?.code).toBe('credentials_invalid');
    const farewell = session.observer.farewell(fatal!);
    expect(farewell[3]).toBe(3);
    expect(farewell.readUInt16LE(5)).toBe(1045);
    expect(session.seen()).toMatchObject([{ status: 'denied', error: '1045/28000' }]);
  });

  test('clients without plugins answer to the greeting', () => {
    for (const right of [true, false]) {
      const facts = factsOf({ changeUser: { challenge: { method: 'token', verifier: VERIFIER } } });
      const reply = right ? nativeReply(TOKEN, facts.changeUser.greetingScramble) : Buffer.alloc(20, 7);
      const plain = new Session({
        capabilities: 0,
        changeUser: { challenge: { method: 'token', verifier: VERIFIER } },
        withoutPlugins: true,
      });
      feed(plain, 'client', changeUser(null, reply, 'db'), bytewise);
      if (right) expect(plain.sent()).toEqual(reset(45, 'db'));
      else expect(plain.observer.fatal?.code).toBe('credentials_invalid');
    }
  });

  test('a database that is not there: the error is the reply', () => {
    const session = start({});
    feed(session, 'client', changeUser(NATIVE, Buffer.alloc(0), 'nosuch'), bytewise);
    session.received();
    feed(session, 'client', packets(2, ''), bytewise);
    const unknown = error(1049, '42000', "Unknown database 'nosuch'");
    feed(session, 'server', Buffer.concat([okPacket(1), okPacket(1), packets(1, unknown)]), bytewise);
    expect(session.received()).toEqual(packets(3, unknown));
    expect(session.seen()).toMatchObject([{ status: 'error', error: '1049/42000' }]);
    feed(session, 'client', query('select 1'), bytewise);
    feed(session, 'server', okPacket(1), bytewise);
    expect(session.observer.busy).toBe(false);
  });

  test('a policy may refuse it', () => {
    const session = start({});
    session.decide_ = () => ({ action: 'refuse', refusal: new Refusal('statement_not_allowed', 'no') });
    feed(session, 'client', Buffer.concat([changeUser(NATIVE, Buffer.alloc(0), 'x')]), bytewise);
    expect(session.received()).toEqual(packets(1, error(1227, '42000', 'no')));
    session.decide_ = () => ({ action: 'allow' });
    feed(session, 'client', query('select 1'), bytewise);
    expect(session.sent()).toEqual(query('select 1'));
  });

  test('a packet cut short ends the session', () => {
    const session = start({});
    feed(session, 'client', command(0x11, 'u\0', 200, 'short'), bytewise);
    expect(session.observer.fatal?.code).toBe('protocol_violation');
    expect(session.sent().length).toBe(0);
  });
});
