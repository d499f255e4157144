import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { clientResponse, serverGreeting } from '../../test/support/mysql-peers.ts';
import { clientGreeting, okForClient } from './accept.ts';
import {
  COMPRESS,
  CONNECT_ATTRS,
  has,
  LOCAL_FILES,
  MULTI_FACTOR_AUTHENTICATION,
  SSL,
  ZSTD_COMPRESSION_ALGORITHM,
} from './capabilities.ts';
import { flavorOf, greetingPayload, parseGreeting, plainVersion } from './greeting.ts';
import { attributesOf, parseResponse, readRequest, responsePayload, withAttributes } from './response.ts';

interface Vector {
  readonly name: string;
  readonly packets: readonly (readonly ['S' | 'C' | 'T', string])[];
}
const VECTORS = JSON.parse(
  readFileSync(new URL('../../test/golden/mysql-vectors.json', import.meta.url), 'utf8'),
) as Vector[];
const payloadOf = (packet: string): Buffer => Buffer.from(packet, 'hex').subarray(4);

describe('greeting', () => {
  test('what real servers sent is read, and built again byte for byte', () => {
    expect(VECTORS).toHaveLength(16);
    for (const vector of VECTORS) {
      const payload = payloadOf(vector.packets[0]![1]);
      const greeting = parseGreeting(payload);
      expect(greeting.scramble, vector.name).toHaveLength(20);
      expect(greetingPayload(greeting), vector.name).toEqual(payload);
    }
  });

  test('cut at any byte it is malformed, never misread past its end', () => {
    const payload = greetingPayload(serverGreeting('mysql'));
    for (let length = 0; length < payload.length - 'caching_sha2_password\0'.length - 1; length += 1) {
      expect(() => parseGreeting(payload.subarray(0, length)), `${length} bytes`).toThrow(
        expect.objectContaining({ fault: 'server' }),
      );
    }
  });

  test('random bytes are refused or read, and nothing else is thrown', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => {
        try {
          parseGreeting(Buffer.from([10, ...bytes]));
        } catch (error) {
          expect(error).toMatchObject({ name: 'ProtocolError', fault: 'server' });
        }
      }),
      { numRuns: 500 },
    );
  });

  test('a client is offered what the server can do, and neither compression nor further factors', () => {
    const server = serverGreeting('mysql');
    const offer = clientGreeting(server, { scramble: Buffer.alloc(20, 1), tls: false, localInfile: false });
    for (const flag of [
      COMPRESS,
      ZSTD_COMPRESSION_ALGORITHM,
      MULTI_FACTOR_AUTHENTICATION,
      SSL,
      LOCAL_FILES,
    ]) {
      expect(has(offer.capabilities, flag)).toBe(false);
    }
    expect(offer).toMatchObject({
      serverVersion: server.serverVersion,
      connectionId: 77,
      collation: 255,
      status: 2,
      plugin: 'caching_sha2_password',
    });
    const more = clientGreeting(server, { scramble: Buffer.alloc(20, 1), tls: true, localInfile: true });
    expect(has(more.capabilities, SSL | LOCAL_FILES)).toBe(true);
  });

  test('MariaDB keeps its extended flags and the first bit that announces them', () => {
    const server = serverGreeting('mariadb', { extended: 0xffffffff });
    const offer = clientGreeting(server, { scramble: Buffer.alloc(20, 1), tls: true, localInfile: false });
    expect(offer.capabilities & 1).toBe(0);
    expect(offer.extended).toBe(0b111101);
    expect(offer.plugin).toBe('mysql_native_password');
  });

  test('the family is told by the version, and the version as people know it', () => {
    expect(flavorOf('5.5.5-10.11.19-MariaDB-0+deb12u1-log')).toBe('mariadb');
    expect(flavorOf('9.7.4-2')).toBe('mysql');
    expect(plainVersion('5.5.5-10.11.19-MariaDB')).toBe('10.11.19-MariaDB');
    expect(plainVersion('5.5.5-log')).toBe('5.5.5-log');
  });
});

describe('answer to the greeting', () => {
  test('what real clients sent is read, and built again byte for byte', () => {
    let seen = 0;
    for (const vector of VECTORS) {
      const { capabilities, extended } = parseGreeting(payloadOf(vector.packets[0]![1]));
      for (const [from, packet] of vector.packets) {
        if (from !== 'C') continue;
        const payload = payloadOf(packet);
        if (payload.length <= 32) continue;
        const response = parseResponse(payload, capabilities, extended);
        expect(response.user, vector.name).toMatch(/^u_/);
        const plugin = response.plugin ?? '';
        expect(responsePayload({ ...response, plugin }), vector.name).toEqual(payload);
        seen += 1;
        break;
      }
    }
    expect(seen).toBe(16);
  });

  test('flags that were not offered do not shape it', () => {
    // libmysqlclient sets CONNECT_ATTRS unasked, and lays the packet out by what was offered.
    const offered = 0xdfffffff & ~CONNECT_ATTRS;
    const full = clientResponse({ attributes: Buffer.alloc(0) });
    const payload = full.subarray(0, full.length - 1);
    const response = parseResponse(payload, offered, 0);
    expect(response.plugin).toBe('caching_sha2_password');
    expect(has(response.capabilities, CONNECT_ATTRS)).toBe(false);
  });

  test('attributes that run past the packet are none', () => {
    const whole = clientResponse({
      attributes: withAttributes(Buffer.alloc(0), { program_name: 'x'.repeat(50) }),
    });
    for (let cut = 1; cut <= 60; cut += 1) {
      const response = parseResponse(whole.subarray(0, whole.length - cut), 0xdfffffff, 0);
      expect(response.attributes).toHaveLength(0);
      expect(response.user).toBe('alice');
    }
  });

  test('the plugin may end with the packet', () => {
    const whole = clientResponse({ flags: 0x19bfa285 & ~CONNECT_ATTRS });
    expect(parseResponse(whole.subarray(0, -1), 0xdfffffff, 0).plugin).toBe('caching_sha2_password');
  });

  test('quotes around a user name are taken off', () => {
    expect(parseResponse(clientResponse({ user: "'alice'" }), 0xdfffffff, 0).user).toBe('alice');
    expect(parseResponse(clientResponse({ user: "'" }), 0xdfffffff, 0).user).toBe("'");
  });

  test('cut at any byte, or random: refused or read, and nothing else is thrown', () => {
    const whole = clientResponse({
      attributes: withAttributes(Buffer.alloc(0), { _client_name: 'libmysql' }),
    });
    const parse = (payload: Buffer): void => {
      try {
        readRequest(payload);
        parseResponse(payload, 0xdfffffff, 0x3d);
      } catch (error) {
        expect(error).toMatchObject({ name: 'ProtocolError', fault: 'client' });
      }
    };
    for (let length = 0; length < whole.length; length += 1) parse(whole.subarray(0, length));
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 200 }),
        fc.nat(whole.length - 1),
        fc.nat(255),
        (bytes, at, byte) => {
          parse(Buffer.from(bytes));
          const mutated = Buffer.from(whole);
          mutated[at] = byte;
          parse(mutated);
        },
      ),
      { numRuns: 500 },
    );
  });

  test('an SSLRequest may have four bytes, and an old client is told apart', () => {
    expect(readRequest(Buffer.from('00aa0000', 'hex'))).toMatchObject({ ssl: true });
    expect(
      readRequest(
        Buffer.from('05aabe01000000012d00000000000000000000000000000000000000', 'hex').subarray(0, 28),
      ),
    ).toMatchObject({ ssl: false });
    expect(() => readRequest(Buffer.from('85a4000000726f6f7400', 'hex').fill(0, 1, 2))).toThrow(/before 4.1/);
    expect(() => readRequest(Buffer.alloc(1))).toThrow(expect.objectContaining({ code: 'malformed' }));
  });
});

describe('attributes', () => {
  test('ours stand behind the client’s, and alone where both are too many', () => {
    const theirs = withAttributes(Buffer.alloc(0), { _client_name: 'lab' });
    expect(attributesOf(withAttributes(theirs, { sallyport_session: 's' }))).toEqual({
      _client_name: 'lab',
      sallyport_session: 's',
    });
    const large = withAttributes(Buffer.alloc(0), { large: 'x'.repeat(65_520) });
    expect(attributesOf(withAttributes(large, { sallyport_session: 's' }))).toEqual({
      sallyport_session: 's',
    });
  });

  test('a record keeps a bounded number of bounded values', () => {
    const many: Record<string, string> = {};
    for (let index = 0; index < 100; index += 1) many[`a${index}`] = 'x'.repeat(600);
    const kept = attributesOf(withAttributes(Buffer.alloc(0), many));
    expect(Object.keys(kept)).toHaveLength(64);
    expect(kept['a0']).toHaveLength(512);
    expect(attributesOf(Buffer.from('09__proto__0161', 'hex'))).toEqual({});
  });
});

describe('the OK that lets a client in', () => {
  const SIGNED = Buffer.from(
    '0000000240000041013844413941373634434234314633424535313134343130363331463632384331394642353536443332434541364636354638313644383637433430343543393795000e0a6175746f636f6d6d6974024f4e00110974696d655f7a6f6e650653595354454d001d146368617261637465725f7365745f636c69656e7407757466386d62340021186368617261637465725f7365745f636f6e6e656374696f6e07757466386d6234001e156368617261637465725f7365745f726573756c747307757466386d6234000e0c72656469726563745f75726c00',
    'hex',
  );

  test('loses the server’s own seal and where it would rather be called', () => {
    const ok = okForClient(SIGNED, true, null);
    expect(ok.includes('redirect_url')).toBe(false);
    expect(ok.includes('character_set_results')).toBe(true);
    expect(ok.includes('8DA9A764CB41')).toBe(false);
    expect(ok.subarray(0, 9).toString('hex')).toBe('000000024000000085');
  });

  test('carries our seal in its place', () => {
    const seal = Buffer.from(`\x01${'AB'.repeat(32)}`, 'latin1');
    const ok = okForClient(SIGNED, true, seal);
    expect(ok.subarray(7, 8 + 65)).toEqual(Buffer.concat([Buffer.of(65), seal]));
    const plain = okForClient(Buffer.from('00000002000000', 'hex'), false, seal);
    expect(plain).toEqual(Buffer.concat([Buffer.from('00000002000000', 'hex'), Buffer.of(65), seal]));
  });

  test('keeps what else the server says', () => {
    const schema = Buffer.from('0000000240000000060104036c6162', 'hex');
    expect(okForClient(schema, true, null)).toEqual(schema);
    const plain = Buffer.from('00000002000000', 'hex');
    expect(okForClient(plain, true, null)).toEqual(plain);
    const location = Buffer.concat([plain, Buffer.of(26), Buffer.from('Location: mysql://[db]:330')]);
    expect(okForClient(location, false, null)).toEqual(plain);
  });

  test('cut at any byte it is passed on or shortened, never thrown over', () => {
    for (let length = 1; length < SIGNED.length; length += 1)
      okForClient(SIGNED.subarray(0, length), true, null);
  });
});
