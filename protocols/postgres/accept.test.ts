import { duplexPair } from 'node:stream';
import * as tls from 'node:tls';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { type ChannelTls, NO_TLS, StreamChannel } from '../../src/gateway/channel.ts';
import { type Issued, makeAuthority } from '../../test/support/certificates.ts';
import { clientStartup } from '../../test/support/postgres-peers.ts';
import { type Accepted, accept } from './accept.ts';

const SSL_REQUEST = Buffer.from('0000000804d2162f', 'hex');
const GSSENC_REQUEST = Buffer.from('0000000804d21630', 'hex');
const CANCEL_3_0 = Buffer.from('0000001004d2162e000008244c039e95', 'hex');
const CANCEL_3_2 = Buffer.from(
  '0000002c04d2162e00000849c1ec8721671c434d28d39bbe10be84998a08d5333c04f1205de3a3ea7427ee59',
  'hex',
);
const STARTUP_3_2 = Buffer.from(
  '0000002500030002757365720074727573745f750064617461626173650061707064620000',
  'hex',
);
const GREASED = Buffer.from(
  '0000004e0003270f757365720074727573745f75006461746162617365006170706462005f70715f2e746573745f70726f746f636f6c5f6e65676f74696174696f6e00005f70715f2e6200310000',
  'hex',
);

let authority: { cert: string };
let withTls: ChannelTls;

beforeAll(async () => {
  const made = await makeAuthority('Accept');
  const issued: Issued = await made.issue({ commonName: 'gateway.test' });
  authority = made;
  withTls = {
    mode: 'prefer',
    context: tls.createSecureContext({ cert: issued.chain, key: issued.key }),
    certificate: issued.der,
  };
});

interface Conversation {
  readonly outcome: Promise<Accepted>;
  /** Everything the client was sent, once the outcome is there and our end is closed. */
  readonly answers: () => Buffer;
  readonly client: StreamChannel;
  readonly wire: import('node:stream').Duplex;
}

/** Runs `accept` against a client that sends `pieces`, one after the other, and then closes. */
function converse(pieces: readonly Buffer[], settings: ChannelTls = NO_TLS, close = true): Conversation {
  const [near, far] = duplexPair();
  const client = new StreamChannel(near, 'client', { host: '127.0.0.1', port: 1 }, settings);
  const received: Buffer[] = [];
  far.on('data', (chunk: Buffer) => received.push(chunk));
  far.on('error', () => {});
  const outcome = accept(client);
  outcome.catch(() => {});
  void (async () => {
    for (const piece of pieces) {
      if (far.destroyed) return;
      far.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    if (close) far.end();
  })();
  return { outcome, answers: () => Buffer.concat(received), client, wire: far };
}

const eachByte = (bytes: Buffer): Buffer[] => Array.from(bytes, (byte) => Buffer.from([byte]));

describe('the first packets of a client', () => {
  it('answer SSLRequest by exactly one byte, and go on in the clear where there is no TLS', async () => {
    const { outcome, answers } = converse([SSL_REQUEST, clientStartup({ database: 'shop' })]);
    expect(await outcome).toMatchObject({
      kind: 'startup',
      startup: { user: 'alice' },
      protocolVersion: '3.0',
    });
    expect(answers().toString()).toBe('N');
    const offered = converse([SSL_REQUEST], withTls);
    await expect(offered.outcome).rejects.toMatchObject({ code: 'tls_failed', fault: 'client' });
    expect(offered.answers().toString()).toBe('S');
  });

  it('may ask for GSS and TLS in either order, each once', async () => {
    const gssFirst = converse([GSSENC_REQUEST, SSL_REQUEST, clientStartup()]);
    expect(await gssFirst.outcome).toMatchObject({ kind: 'startup' });
    expect(gssFirst.answers().toString()).toBe('NN');
    const sslFirst = converse([SSL_REQUEST, GSSENC_REQUEST, clientStartup()]);
    expect(await sslFirst.outcome).toMatchObject({ kind: 'startup' });
    expect(sslFirst.answers().toString()).toBe('NN');
    for (const twice of [SSL_REQUEST, GSSENC_REQUEST]) {
      await expect(converse([twice, twice]).outcome).rejects.toMatchObject({
        code: 'unsupported',
        message: expect.stringContaining('unsupported frontend protocol 1234.'),
      });
    }
  });

  it('are nobody when the client closes at once, and an error when it closes in the middle', async () => {
    expect(await converse([]).outcome).toEqual({ kind: 'nobody' });
    for (let end = 1; end < STARTUP_3_2.length; end++) {
      await expect(converse([STARTUP_3_2.subarray(0, end)]).outcome).rejects.toMatchObject({
        code: 'unexpected_end',
        fault: 'client',
      });
    }
  });

  it.each([
    ['a body of 10001 bytes', Buffer.from('0000271500030000', 'hex')],
    ['a length of 7', Buffer.from('0000000700030000', 'hex')],
    ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['a TLS record without TLS', Buffer.from('160301', 'hex')],
    ['a cancel without a secret', Buffer.from('0000000c04d2162e00000824', 'hex')],
    [
      'a cancel with 257 bytes',
      Buffer.concat([Buffer.from('0000010d04d2162e00000824', 'hex'), Buffer.alloc(257)]),
    ],
  ])('are closed without a word for %s', async (_, bytes) => {
    const { outcome, answers, wire } = converse([bytes], NO_TLS, false);
    await expect(outcome).rejects.toMatchObject({ fault: 'client' });
    if (!wire.readableEnded && !wire.destroyed)
      await new Promise((resolve) => wire.once('close', resolve).once('end', resolve));
    expect(answers().length).toBe(0);
  });

  it('take the longest body that PostgreSQL takes', async () => {
    const room = 10_000 - (clientStartup({ application_name: '' }).length - 4);
    const { outcome } = converse([clientStartup({ application_name: 'x'.repeat(room) })]);
    expect(await outcome).toMatchObject({ kind: 'startup' });
  });

  it('are no session when bytes are stuffed behind a request', async () => {
    for (const settings of [NO_TLS, withTls]) {
      const stuffed = converse([Buffer.concat([SSL_REQUEST, clientStartup()])], settings);
      await expect(stuffed.outcome).rejects.toMatchObject({ code: 'tls_stuffing', fault: 'client' });
      expect(stuffed.answers().length).toBe(0);
    }
    const gss = converse([Buffer.concat([GSSENC_REQUEST, SSL_REQUEST])]);
    await expect(gss.outcome).rejects.toMatchObject({ code: 'tls_stuffing' });
  });

  it('may be a cancel, with a short and with a long key', async () => {
    expect(await converse([CANCEL_3_0]).outcome).toEqual({
      kind: 'cancel',
      pid: 0x824,
      secret: Buffer.from('4c039e95', 'hex'),
    });
    const long = await converse(eachByte(CANCEL_3_2)).outcome;
    expect(long).toMatchObject({ kind: 'cancel', pid: 0x849 });
    expect(long.kind === 'cancel' && long.secret.length).toBe(32);
  });
});

describe('protocol versions', () => {
  const startup = (version: number) => clientStartup({ database: 'appdb' }, version);

  it('3.0 and 3.2 are spoken without a word', async () => {
    for (const [version, expected] of [
      [0x30000, '3.0'],
      [0x30002, '3.2'],
    ] as const) {
      const { outcome, answers } = converse([startup(version)]);
      expect(await outcome).toMatchObject({ protocolVersion: expected });
      expect(answers().length).toBe(0);
    }
    expect(await converse([STARTUP_3_2]).outcome).toMatchObject({ startup: { user: 'trust_u' } });
  });

  it('3.1 becomes 3.0, later ones 3.2, told once', async () => {
    const older = converse([startup(0x30001)]);
    expect(await older.outcome).toMatchObject({ protocolVersion: '3.0' });
    expect(older.answers().toString('hex')).toBe('760000000c0003000000000000');
    const newer = converse([startup(0x30003)]);
    expect(await newer.outcome).toMatchObject({ protocolVersion: '3.2' });
    expect(newer.answers().toString('hex')).toBe('760000000c0003000200000000');
  });

  it('greased requests get the answer that PostgreSQL 18 gives', async () => {
    const { outcome, answers } = converse([GREASED]);
    const accepted = await outcome;
    expect(accepted).toMatchObject({ protocolVersion: '3.2' });
    expect(answers().toString('hex')).toBe(
      '760000003200030002000000025f70715f2e746573745f70726f746f636f6c5f6e65676f74696174696f6e005f70715f2e6200',
    );
    // Protocol options are answered, and never reach the server.
    expect(accepted.kind === 'startup' && accepted.startup.parameters).toEqual([]);
    const known = converse([clientStartup({ '_pq_.b': '1' })]);
    expect(await known.outcome).toMatchObject({ protocolVersion: '3.0' });
    expect(known.answers().toString('hex')).toBe('760000001300030000000000015f70715f2e6200');
  });

  it('2.0 is refused in the words of protocol 2, others in those of 3', async () => {
    const two = converse([startup(0x20000)]);
    await expect(two.outcome).rejects.toMatchObject({ code: 'unsupported', fault: 'client' });
    await new Promise((resolve) => setImmediate(resolve));
    expect(two.answers().toString()).toBe(
      'EFATAL:  unsupported frontend protocol 2.0: server supports 3.0 to 3.2\n\0',
    );
    const four = converse([startup(0x40000)]);
    await expect(four.outcome).rejects.toMatchObject({
      code: 'unsupported',
      message: 'unsupported frontend protocol 4.0: server supports 3.0 to 3.2',
    });
  });
});

describe('TLS', () => {
  /** A client that has received `S` (or begins at once), and then speaks TLS over its end of the wire. */
  function secure(wire: import('node:stream').Duplex, options: tls.ConnectionOptions = {}): tls.TLSSocket {
    wire.removeAllListeners('data');
    const socket = tls.connect({
      socket: wire as never,
      ca: authority.cert,
      servername: 'gateway.test',
      ...options,
    });
    socket.on('error', () => {});
    return socket;
  }

  it('begins after SSLRequest, also when the ClientHello comes with it', async () => {
    const waiting = converse([SSL_REQUEST], withTls, false);
    await new Promise<void>((resolve) => waiting.wire.once('data', () => resolve()));
    secure(waiting.wire).write(clientStartup());
    expect(await waiting.outcome).toMatchObject({ kind: 'startup' });
    expect(waiting.client.tls).toMatchObject({ serverName: 'gateway.test', alpn: null });

    // The client does not wait for the answer: its hello is glued to the request, and `S` precedes the server's hello.
    const [inner, outer] = duplexPair();
    const eager = converse([], withTls, false);
    let first = true;
    outer.on('data', (chunk: Buffer) => {
      eager.wire.write(first ? Buffer.concat([SSL_REQUEST, chunk]) : chunk);
      first = false;
    });
    let answered = false;
    eager.wire.removeAllListeners('data');
    eager.wire.on('data', (chunk: Buffer) => {
      if (answered) outer.write(chunk);
      else {
        expect(chunk[0]).toBe(0x53);
        answered = true;
        if (chunk.length > 1) outer.write(chunk.subarray(1));
      }
    });
    const socket = tls.connect({ socket: inner as never, ca: authority.cert, servername: 'gateway.test' });
    socket.write(clientStartup());
    expect(await eager.outcome).toMatchObject({ kind: 'startup' });
  });

  it('may begin at once, but only with the ALPN that says so', async () => {
    const direct = converse([], withTls, false);
    secure(direct.wire, { ALPNProtocols: ['postgresql'] }).write(clientStartup());
    expect(await direct.outcome).toMatchObject({ kind: 'startup' });
    expect(direct.client.tls?.alpn).toBe('postgresql');

    for (const ALPNProtocols of [undefined, ['h2']]) {
      const { outcome, wire } = converse([], withTls, false);
      secure(wire, ALPNProtocols ? { ALPNProtocols } : {}).write(clientStartup());
      await expect(outcome).rejects.toMatchObject({ code: 'tls_failed', fault: 'client' });
    }
  });

  it('is asked for once: a second SSLRequest inside is an unknown version, after direct TLS the first is answered N', async () => {
    const twice = converse([SSL_REQUEST], withTls, false);
    await new Promise<void>((resolve) => twice.wire.once('data', () => resolve()));
    secure(twice.wire).write(SSL_REQUEST);
    await expect(twice.outcome).rejects.toMatchObject({
      message: 'unsupported frontend protocol 1234.5679: server supports 3.0 to 3.2',
    });

    const direct = converse([], withTls, false);
    const socket = secure(direct.wire, { ALPNProtocols: ['postgresql'] });
    socket.write(SSL_REQUEST);
    expect((await new Promise<Buffer>((resolve) => socket.once('data', resolve))).toString()).toBe('N');
    socket.write(clientStartup());
    expect(await direct.outcome).toMatchObject({ kind: 'startup' });
  });
});

describe('however the bytes arrive', () => {
  const conversations: [string, Buffer][] = [
    ['a startup packet', STARTUP_3_2],
    ['a greased one', GREASED],
    ['a cancel', CANCEL_3_2],
  ];

  it.each(conversations)('%s is the same, cut at any byte', async (_, bytes) => {
    const whole = await converse([bytes]).outcome;
    for (let cut = 1; cut < bytes.length; cut++) {
      expect(await converse([bytes.subarray(0, cut), bytes.subarray(cut)]).outcome).toEqual(whole);
    }
    expect(await converse(eachByte(bytes)).outcome).toEqual(whole);
  });

  it('requests and a startup packet are the same byte by byte', async () => {
    const pieces = [...eachByte(GSSENC_REQUEST), ...eachByte(SSL_REQUEST), ...eachByte(STARTUP_3_2)];
    expect(await converse(pieces).outcome).toMatchObject({ kind: 'startup', startup: { user: 'trust_u' } });
  });

  it('garbage is an error of the client, or nobody, and nothing else', async () => {
    const starts = [SSL_REQUEST, GSSENC_REQUEST, CANCEL_3_0, STARTUP_3_2, Buffer.alloc(0)];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...starts),
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 4 }),
        async (start, tail) => {
          const { outcome } = converse([start, ...tail.map((bytes) => Buffer.from(bytes))], withTls);
          const result = await outcome.catch((error: unknown) => error);
          if (result instanceof Error) expect(['ProtocolError', 'Refusal']).toContain(result.name);
          else expect(['nobody', 'cancel', 'startup']).toContain((result as Accepted).kind);
        },
      ),
      { numRuns: 300 },
    );
  });

  it('a startup packet with changed bytes is an error or a startup', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(STARTUP_3_2.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        async (changes) => {
          const bytes = Buffer.from(STARTUP_3_2);
          for (const [at, value] of changes) bytes[at] = value;
          const result = await converse([bytes]).outcome.catch((error: unknown) => error);
          if (result instanceof Error) expect(['ProtocolError', 'Refusal']).toContain(result.name);
        },
      ),
      { numRuns: 300 },
    );
  });
});
