import type { Duplex } from 'node:stream';
import { describe, expect, it } from 'vitest';
import {
  answering,
  errorOf,
  loginPacket,
  preloginPacket,
  SERVER_LOGIN,
  SERVER_PRELOGIN,
} from '../../test/support/tds-peers.ts';
import { expectNoSecret, play } from '../../test/support/tds-play.ts';
import { vectorPayload } from '../../test/support/tds-vectors.ts';
import { buildMessage } from './messages.ts';

const LAUNCH = 'canary-launch';

describe('a server that sends us elsewhere', () => {
  const routed = (host: string, port = 1433): Buffer => {
    const name = Buffer.from(host, 'utf16le');
    const data = Buffer.concat([Buffer.from([0, port & 0xff, port >> 8, host.length, 0]), name]);
    const body = Buffer.concat([Buffer.from([20, data.length, 0]), data, Buffer.from([0, 0])]);
    const token = Buffer.concat([Buffer.from([0xe3, body.length, 0]), body]);
    const login = vectorPayload('sql2008sp3-login-response');
    return buildMessage(0x04, Buffer.concat([login.subarray(0, -13), token, login.subarray(-13)]), 4096);
  };

  function routing(route: (hop: number) => Buffer) {
    let hop = 0;
    return (peer: Duplex): void => {
      answering([SERVER_PRELOGIN, route(hop)])(peer);
      hop += 1;
    };
  }

  it('is followed within its domain, and the client sees only where it ended', async () => {
    const server = routing((hop) => (hop === 0 ? routed('db9.example.com', 1444) : SERVER_LOGIN));
    const { kind, signIn, toClient, toServer } = await play([preloginPacket(), loginPacket()], { server });
    expect(kind).toBe('session');
    expect(signIn.dialled).toEqual([
      { host: 'db1.example.com', port: 1433 },
      { host: 'db9.example.com', port: 1444 },
    ]);
    expect(toClient.includes(Buffer.from('db9', 'utf16le'))).toBe(false);
    expect(toClient.subarray(-421).equals(vectorPayload('sql2008sp3-login-response'))).toBe(true);
    expect(toServer.includes(Buffer.from('db9.example.com', 'utf16le'))).toBe(true);
  });

  it.each([
    ['169.254.169.254', 80],
    ['internal.corp', 6379],
    ['db9.evil.com', 1433],
    ['db1.example.com', 0],
    ['', 1433],
  ])('is not followed to %s:%i when it has not proved who it is', async (host, port) => {
    const { error, signIn, toClient } = await play([preloginPacket(), loginPacket()], {
      server: routing(() => routed(host, port)),
    });
    expect(error).toMatchObject({ code: 'server_untrusted' });
    expect(signIn.dialled.length).toBe(1);
    expect(errorOf(toClient)).not.toBeNull();
    expectNoSecret(toClient, LAUNCH);
  });

  it('is followed five times and no more', async () => {
    const { error, signIn } = await play([preloginPacket(), loginPacket()], {
      server: routing((hop) => routed(`db${hop}.example.com`)),
    });
    expect(error).toMatchObject({ code: 'server_untrusted' });
    expect(signIn.dialled.length).toBe(6);
  });
});
