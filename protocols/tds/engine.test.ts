import type { Duplex } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { collect, startSignIn } from '../../test/support/tds-entry.ts';
import {
  answering,
  CLIENT_PASSWORD,
  errorOf,
  formsOf,
  loginPacket,
  preloginPacket,
  SERVER_LOGIN,
  SERVER_PRELOGIN,
} from '../../test/support/tds-peers.ts';
import { expectNoSecret, GOOD, play, rest } from '../../test/support/tds-play.ts';
import { vectorPayload } from '../../test/support/tds-vectors.ts';
import { ProtocolError, Refusal } from '../error.ts';
import { doneError, errorToken } from './errors.ts';
import { buildMessage } from './messages.ts';

const LAUNCH = 'canary-launch';

describe('a sign-in', () => {
  it('mirrors the server’s version and passes its login response on byte for byte', async () => {
    const { kind, toClient, signIn } = await play([preloginPacket(), loginPacket()]);
    expect(kind).toBe('session');
    const answer = '0401002b0000010000001a00060100200001020021000103002200000400220001ff0a001588000002';
    expect(toClient.toString('hex', 0, 41)).toBe(answer);
    // The client had asked for no feature that this server acknowledged; the header carries the server's process id.
    expect(toClient.subarray(-429 + 8).equals(vectorPayload('sql2008sp3-login-response'))).toBe(true);
    expect(signIn.opened[0]).toMatchObject({
      serverVersion: '10.0.5512',
      database: 'SubmissionPortal',
      databaseUser: 'svc',
      serverSession: '60',
      authentication: 'sql',
      tlsFallback: false,
    });
    expect(signIn.handedOut[0]!.password!.wiped).toBe(true);
  });

  it('keeps each side’s password from the other', async () => {
    const { toClient, toServer } = await play([preloginPacket(), loginPacket()]);
    expectNoSecret(toClient, LAUNCH);
    expectNoSecret(toServer, CLIENT_PASSWORD);
    expect(toServer.includes(formsOf(LAUNCH)[2]!)).toBe(true);
  });

  it('of a client that starts with LOGIN7 (jTDS without ssl) works in its own layout', async () => {
    const { kind, toServer, toClient } = await play([loginPacket({ from: 'lab-jtds-login7-1' })]);
    expect(kind).toBe('session');
    const login = toServer.subarray(toServer.readUInt16BE(2));
    expect(login.readUInt16LE(8 + 36)).toBe(86);
    expect(toClient[0]).toBe(0x04);
  });

  it('of nobody is served without a word', async () => {
    const { kind, toClient, signIn } = await play([], {}, 'close');
    expect(kind).toBe('served');
    expect(toClient.length).toBe(0);
    expect(signIn.dialled).toEqual([]);
  });

  it('opens the database that the permit names when the client names none', async () => {
    const { toServer } = await play([preloginPacket(), loginPacket({ database: '' })], { database: 'sales' });
    expect(toServer.includes(Buffer.from('sales', 'utf16le'))).toBe(true);
  });

  it('passes a long login response on in packets that any client has room for', async () => {
    const text = Buffer.from('x'.repeat(5000), 'utf16le');
    const body = Buffer.concat([
      Buffer.from([1, 0, 0, 0, 1, 0, 5000 & 0xff, 5000 >> 8]),
      text,
      Buffer.from([0, 0, 1, 0, 0, 0]),
    ]);
    const info = Buffer.concat([Buffer.from([0xab, body.length & 0xff, body.length >> 8]), body]);
    const real = vectorPayload('sql2008sp3-login-response');
    const payload = Buffer.concat([real.subarray(0, -13), info, real.subarray(-13)]);
    const server = answering([SERVER_PRELOGIN, buildMessage(0x04, payload, 32_767, 60)]);
    const { toClient } = await play([preloginPacket(), loginPacket({ packetBytes: 32_767 })], { server });
    const parts: Buffer[] = [];
    for (let at = toClient.readUInt16BE(2); at < toClient.length; at += toClient.readUInt16BE(at + 2)) {
      const length = toClient.readUInt16BE(at + 2);
      expect(length).toBeLessThanOrEqual(4096);
      // go-mssqldb takes any status but 0 for the end of a message.
      expect(toClient[at + 1]).toBe(at + length === toClient.length ? 1 : 0);
      parts.push(toClient.subarray(at + 8, at + length));
    }
    expect(Buffer.concat(parts).equals(payload)).toBe(true);
  });

  it('offers MARS where the setting, the client and the server agree', async () => {
    const prelogin = Buffer.from(SERVER_PRELOGIN);
    prelogin[prelogin.length - 1] = 1;
    const server = answering([prelogin, SERVER_LOGIN]);
    for (const [setting, asked, expected] of [
      [true, true, 1],
      [true, false, 0],
      [false, true, 0],
    ] as const) {
      const { toClient } = await play([preloginPacket(2, asked), loginPacket()], {
        settings: { mars: setting },
        server,
      });
      expect(toClient[toClient.readUInt16BE(2) - 1]).toBe(expected);
    }
  });
});

describe('a conversation cut anywhere', () => {
  const prelogin = preloginPacket();
  const login = loginPacket();
  const whole = Buffer.concat([prelogin, login]);

  it('on the client’s side works at every byte', async () => {
    for (let at = 1; at < whole.length; at += 1) {
      const { kind } = await play([whole.subarray(0, at), whole.subarray(at)]);
      expect(kind, `cut at ${at}`).toBe('session');
    }
  });

  it('on the client’s side works byte by byte, LOGIN7 in many packets', async () => {
    const small = Buffer.concat([prelogin, loginPacket({}, 64)]);
    const { kind } = await play([...small].map((byte) => Buffer.from([byte])));
    expect(kind).toBe('session');
  });

  it('ends when the client leaves, at every byte', async () => {
    for (let at = 1; at < whole.length; at += 1) {
      const { error, kind, signIn } = await play([whole.subarray(0, at)], {}, 'close');
      expect(kind, `left after ${at}`).toBe(null);
      expect(error, `left after ${at}`).toMatchObject({ code: 'unexpected_end', fault: 'client' });
      expect(signIn.opened).toEqual([]);
    }
  });

  it('on the server’s side works at every byte', async () => {
    for (const [index, answer] of [SERVER_PRELOGIN, SERVER_LOGIN].entries()) {
      for (let at = 1; at < answer.length; at += 1) {
        const server = (peer: Duplex): void => {
          const answers = [SERVER_PRELOGIN, SERVER_LOGIN];
          answers[index] = answer.subarray(0, at);
          answering(answers)(peer);
          let messages = 0;
          peer.on('data', () => {
            messages += 1;
            if (messages === index + 1) void rest().then(() => peer.write(answer.subarray(at)));
          });
        };
        const { kind } = await play([prelogin, login], { server });
        expect(kind, `answer ${index} cut at ${at}`).toBe('session');
      }
    }
  });

  it('tells the client in its own protocol when the server leaves, at every byte', async () => {
    for (let at = 0; at < SERVER_LOGIN.length; at += 1) {
      const server = answering([SERVER_PRELOGIN, SERVER_LOGIN.subarray(0, at)], 'close');
      const { error, toClient } = await play([prelogin, login], { server });
      expect(error, `left after ${at}`).toMatchObject({ code: 'unexpected_end', fault: 'server' });
      const told = errorOf(toClient);
      expect(told?.number).toBe(18456);
      expect(told?.text).toContain('closed the connection');
      expectNoSecret(toClient, LAUNCH);
    }
  });
});

describe('a server that cannot be signed in to', () => {
  const reply = (payload: Buffer): Buffer => buildMessage(0x04, payload, 4096);
  const refusal = (number: number, text: string): Buffer =>
    reply(
      Buffer.concat([
        errorToken({ number, state: 1, class: 14, message: text, serverName: 'SECRETHOST' }, '7.4'),
        doneError('7.4'),
      ]),
    );

  it.each<[string, readonly Buffer[], number, RegExp]>([
    [
      'takes no password',
      [SERVER_PRELOGIN, refusal(18456, "Login failed for user 'svc'.")],
      18456,
      /launch credentials/,
    ],
    [
      'has no such database',
      [SERVER_PRELOGIN, refusal(4060, 'Cannot open "db1" for svc')],
      4060,
      /database "db1"/,
    ],
    ['is moving', [SERVER_PRELOGIN, refusal(40613, 'Database on SECRETHOST')], 40613, /not available/],
    ['has another reason', [SERVER_PRELOGIN, refusal(40615, 'IP 10.1.2.3 of svc')], 18456, /error 40615/],
    ['is no SQL Server', [Buffer.from('SSH-2.0-OpenSSH_9.2p1\r\n')], 18456, /not answer as a SQL Server/],
    ['has an odd PRELOGIN', [reply(Buffer.from('00ffff0006ff', 'hex'))], 18456, /not answer as a SQL Server/],
    ['demands encryption', [reply(vectorPayload('sql2008sp2-prelogin-response'))], 18456, /encryption/],
    ['answers with nothing', [SERVER_PRELOGIN, reply(Buffer.alloc(0))], -1, /./],
    ['says yes and no', [SERVER_PRELOGIN, reply(doneError('7.4'))], 18456, /./],
    ['sends a token that nobody knows', [SERVER_PRELOGIN, reply(Buffer.from('61626364', 'hex'))], 18456, /./],
    [
      'asks for SSPI',
      [SERVER_PRELOGIN, reply(Buffer.from('ed0400aabbccdd', 'hex'))],
      18456,
      /way of signing in/,
    ],
    [
      'asks for Entra',
      [SERVER_PRELOGIN, reply(Buffer.from('ee0400000000000000', 'hex'))],
      18456,
      /way of signing in/,
    ],
    ['announces a huge packet', [Buffer.from('0401ffff00000100', 'hex')], 18456, /./],
    ['announces a packet below its header', [Buffer.from('0401000700000100', 'hex')], 18456, /./],
  ])('because it %s', async (_name, answers, number, text) => {
    const { error, toClient, kind } = await play([preloginPacket(), loginPacket()], {
      server: answering(answers),
    });
    if (number === -1) {
      expect(kind).toBe('waiting');
      return;
    }
    expect(error).toBeInstanceOf(ProtocolError);
    const told = errorOf(toClient)!;
    expect(told.number).toBe(number);
    expect(told.class).toBe(14);
    expect(told.text).toMatch(text);
    // What the server says may name the account, its own host and ours.
    expect(told.text).not.toMatch(/svc|SECRETHOST|10\.1\.2\.3/);
    expectNoSecret(toClient, LAUNCH);
  });

  it('because nothing listens there', async () => {
    const signIn = startSignIn();
    const output = collect(signIn.client);
    signIn.client.write(preloginPacket());
    await rest();
    signIn.client.write(loginPacket());
    await expect(signIn.outcome).rejects.toBeInstanceOf(Refusal);
    await rest();
    // PRELOGIN was answered all the same: no driver shows an error that comes before LOGIN7.
    expect(output.bytes[0]).toBe(0x04);
    expect(errorOf(output.bytes)?.text).toContain('cannot be reached');
  });

  it('ends an answer without end', async () => {
    const endless = (peer: Duplex): void => {
      answering([SERVER_PRELOGIN])(peer);
      let messages = 0;
      peer.on('data', () => {
        messages += 1;
        if (messages !== 2) return;
        const packet = Buffer.from('0400000800000100', 'hex');
        peer.write(Buffer.concat(Array(300_000).fill(packet)));
      });
    };
    const { error } = await play([preloginPacket(), loginPacket()], { server: endless });
    expect(error).toMatchObject({ code: 'length_out_of_range' });
  });

  it('tries the next address', async () => {
    let tried = 0;
    const { kind, signIn } = await play([preloginPacket(), loginPacket()], {
      addresses: [
        { host: 'db1.example.com', port: 1433 },
        { host: 'db2.example.com', port: 1433 },
      ],
      server: (peer) => {
        tried += 1;
        if (tried === 1) peer.end();
        else GOOD(peer);
      },
    });
    expect(kind).toBe('session');
    expect(signIn.dialled.map(({ host }) => host)).toEqual(['db1.example.com', 'db2.example.com']);
  });
});

describe('stale launch credentials', () => {
  const refused = buildMessage(
    0x04,
    Buffer.concat([
      errorToken({ number: 18456, state: 1, class: 14, message: 'no', serverName: '' }, '7.4'),
      doneError('7.4'),
    ]),
    4096,
  );

  it('are fetched anew once, on a connection of their own', async () => {
    let connections = 0;
    const { kind, signIn } = await play([preloginPacket(), loginPacket()], {
      refetched: { username: 'svc2', password: 'canary-second' },
      server: (peer) => {
        connections += 1;
        answering([SERVER_PRELOGIN, connections === 1 ? refused : SERVER_LOGIN])(peer);
      },
    });
    expect(kind).toBe('session');
    expect(connections).toBe(2);
    expect(signIn.opened[0]!.databaseUser).toBe('svc2');
    expect(signIn.handedOut.every(({ password }) => password!.wiped)).toBe(true);
  });

  it('are not tried a third time', async () => {
    let connections = 0;
    const { error } = await play([preloginPacket(), loginPacket()], {
      refetched: { username: 'svc2', password: 'canary-second' },
      server: (peer) => {
        connections += 1;
        answering([SERVER_PRELOGIN, refused])(peer);
      },
    });
    expect(error).toMatchObject({ code: 'authentication_failed', serverCode: '18456' });
    expect(connections).toBe(2);
  });

  it('are not fetched anew for a database that cannot be opened', async () => {
    const both = buildMessage(
      0x04,
      Buffer.concat([
        errorToken({ number: 4060, state: 1, class: 11, message: 'no', serverName: '' }, '7.4'),
        errorToken({ number: 18456, state: 1, class: 14, message: 'no', serverName: '' }, '7.4'),
        doneError('7.4'),
      ]),
      4096,
    );
    const { error, signIn } = await play([preloginPacket(), loginPacket()], {
      refetched: { username: 'svc2', password: 'canary-second' },
      server: answering([SERVER_PRELOGIN, both]),
    });
    expect(error).toMatchObject({ kind: 'database' });
    expect(signIn.handedOut.length).toBe(1);
  });
});

describe('a client that is refused', () => {
  it.each<[string, Buffer, RegExp]>([
    [
      'wants to change the password',
      loginPacket({ change: (payload) => payload.writeUInt16LE(2, 88) }),
      /password cannot be changed/,
    ],
    [
      'wants its broken session back',
      loginPacket({ features: [{ id: 1, data: Buffer.from([0, 0, 0, 0]) }] }),
      /resumed/,
    ],
    ['wants an Entra sign-in', loginPacket({ features: [{ id: 2, data: Buffer.from([4, 1]) }] }), /Entra/],
    [
      'counts from the big end',
      loginPacket({
        change: (payload) => {
          payload[24] = 1;
        },
      }),
      /big-endian/,
    ],
    ['announces too much', loginPacket({ change: (payload) => payload.writeUInt32LE(131_073, 0) }), /131073/],
    [
      'has features without end',
      loginPacket({
        change: (payload) => {
          payload[payload.length - 1] = 3;
        },
      }),
      /FeatureExt/,
    ],
  ])('because it %s hears so, and no server hears of it', async (_name, login, text) => {
    const { error, toClient, toServer } = await play([preloginPacket(), login]);
    expect(error).not.toBeNull();
    expect(errorOf(toClient)?.text).toMatch(text);
    expect(errorOf(toClient)?.number).toBe(18456);
    // PRELOGIN alone went to the server.
    expect(toServer.length).toBe(toServer.readUInt16BE(2));
  });

  it('for replication is let in only where the resource allows it', async () => {
    const agent = loginPacket({
      change: (payload) => {
        payload[25] = (payload[25]! & 0x8f) | 0x30;
      },
    });
    const refused = await play([preloginPacket(), agent]);
    expect(refused.error).toMatchObject({ code: 'replication_not_allowed' });
    const allowed = await play([preloginPacket(), agent], { settings: { allowReplication: true } });
    expect(allowed.kind).toBe('session');
  });

  it('by a rule hears the rule’s words', async () => {
    const { toClient, error } = await play([preloginPacket(), loginPacket()], {
      admit: () => {
        throw new Refusal('not_allowed', 'this listener does not let you in', { hint: 'Ask for access.' });
      },
    });
    expect(error).toMatchObject({ code: 'not_allowed' });
    expect(errorOf(toClient)?.text).toBe('Sallyport: this listener does not let you in. Ask for access.');
  });

  it('hears it in the widths of its own version', () => {
    const fields = { number: 18456, state: 1, class: 14, message: 'Denied', serverName: 'px' };
    const wide = Buffer.concat([errorToken(fields, '7.2'), doneError('7.2')]);
    expect(buildMessage(0x04, wide, 4096).toString('hex')).toBe(
      '0401003600000100aa1e0018480000010e0600440065006e0069006500640002700078000001000000fd020000000000000000000000',
    );
    const narrow = Buffer.concat([errorToken(fields, '7.1'), doneError('7.1')]);
    expect(buildMessage(0x04, narrow, 4096).toString('hex')).toBe(
      '0401003000000100aa1c0018480000010e0600440065006e006900650064000270007800000100fd0200000000000000',
    );
  });

  it('in small packets when it asked for small ones', async () => {
    const { toClient } = await play([loginPacket({ from: 'lab-jtds-login7-1', packetBytes: 512 })], {
      admit: () => {
        throw new Refusal('not_allowed', 'x'.repeat(600));
      },
    });
    expect(toClient.readUInt16BE(2)).toBe(512);
    expect(toClient[1]).toBe(0);
  });

  it.each([
    ['TDS 4.2', '0200020000000000'],
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n').toString('hex')],
    ['a PRELOGIN that is none', '1201000e0000010000ffff0006ff'],
    ['a PRELOGIN of 64 KiB', '1200ffff00000100'],
    ['a packet shorter than its header', '1201000700000100'],
    ['an answer where a question belongs', '0401000800000100'],
  ])('for %s is closed without an answer', async (_name, hex) => {
    const { error, toClient, signIn } = await play([Buffer.from(hex, 'hex')]);
    expect(error).toBeInstanceOf(ProtocolError);
    expect(error).toMatchObject({ fault: 'client' });
    expect(toClient.length).toBe(0);
    expect(signIn.dialled).toEqual([]);
  });

  it('for packets without bytes, however many', async () => {
    const empty = Buffer.from('1000000800000100', 'hex');
    const { error } = await play([preloginPacket(), Buffer.concat(Array(140_000).fill(empty))]);
    expect(error).toMatchObject({ code: 'length_out_of_range', fault: 'client' });
  });
});

describe('how a client proves who it is', () => {
  const verifier = {
    scram: {
      salt: Buffer.alloc(16),
      iterations: 4096,
      storedKey: Buffer.alloc(32),
      serverKey: Buffer.alloc(32),
    },
    nativeHash: Buffer.alloc(20),
    sha2Hash: Buffer.alloc(32),
    matches: (token: Buffer) => token.toString() === CLIENT_PASSWORD,
  };

  it('under trust matters to nobody: any password, a Windows account, an access token', async () => {
    const token = Buffer.concat([Buffer.from([2, 6, 0, 0, 0]), Buffer.from('abc', 'utf16le')]);
    for (const login of [
      loginPacket({ password: '' }),
      loginPacket({ integrated: true }),
      loginPacket({ features: [{ id: 2, data: token }] }),
    ]) {
      const { kind, signIn, toServer } = await play([preloginPacket(), login]);
      expect(kind).toBe('session');
      expect(signIn.proofs).toEqual([{ method: 'trust' }]);
      expect(toServer.includes(Buffer.from('NTLMSSP'))).toBe(false);
    }
  });

  it('a client with an access token hears that it was taken', async () => {
    const token = Buffer.concat([Buffer.from([2, 6, 0, 0, 0]), Buffer.from('abc', 'utf16le')]);
    const { toClient, toServer } = await play([
      preloginPacket(),
      loginPacket({ features: [{ id: 2, data: token }] }),
    ]);
    expect(toClient.includes(Buffer.from('ae0200000000ff', 'hex'))).toBe(true);
    expect(toServer.includes(Buffer.from('abc', 'utf16le'))).toBe(false);
  });

  it('a token in the clear is refused before it is looked at', async () => {
    let looked = 0;
    const challenge = {
      method: 'token',
      verifier: { ...verifier, matches: () => ++looked > 0 },
    } as const;
    const { error, toClient } = await play([preloginPacket(), loginPacket()], { challenge });
    expect(error).toMatchObject({ code: 'tls_required' });
    expect(looked).toBe(0);
    expect(errorOf(toClient)?.text).toContain('Turn encryption on');
  });

  it('a Windows account is told what to choose instead', async () => {
    const { toClient } = await play([preloginPacket(), loginPacket({ integrated: true })], {
      challenge: { method: 'token', verifier },
    });
    expect(errorOf(toClient)?.text).toContain('SQL Server Authentication');
  });
});

describe('a sign-in that takes too long', () => {
  it('tells the client, once it has sent LOGIN7', async () => {
    const signIn = startSignIn({ server: (peer) => void answering([SERVER_PRELOGIN])(peer) });
    const output = collect(signIn.client);
    signIn.client.write(preloginPacket());
    await rest();
    signIn.client.write(loginPacket());
    await rest();
    signIn.expire(new ProtocolError('timeout', 'server', 'too slow'));
    await expect(signIn.outcome).rejects.toMatchObject({ code: 'timeout' });
    await rest();
    expect(errorOf(output.bytes)?.text).toContain('did not answer in time');
  });

  it('or is ended by the gateway hears why', async () => {
    const signIn = startSignIn({ server: (peer) => void answering([SERVER_PRELOGIN])(peer) });
    const output = collect(signIn.client);
    signIn.client.write(preloginPacket());
    await rest();
    signIn.client.write(loginPacket());
    await rest();
    const cause = new Refusal('shutdown', 'the gateway is shutting down');
    signIn.expire(new ProtocolError('timeout', 'ours', cause.message, { cause }));
    await expect(signIn.outcome).rejects.toMatchObject({ fault: 'ours' });
    await rest();
    expect(errorOf(output.bytes)?.text).toBe('Sallyport: the gateway is shutting down.');
  });

  it('ends in silence before LOGIN7', async () => {
    const signIn = startSignIn({ server: (peer) => void GOOD(peer) });
    const output = collect(signIn.client);
    signIn.client.write(preloginPacket().subarray(0, 5));
    await rest();
    signIn.expire(new ProtocolError('timeout', 'client', 'too slow'));
    await expect(signIn.outcome).rejects.toMatchObject({ code: 'timeout' });
    expect(output.bytes.length).toBe(0);
  });
});
