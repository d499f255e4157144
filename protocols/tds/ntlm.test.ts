import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { md4 as otherMd4 } from '../../test/support/tds-double/md4.ts';
import { vectorPayload } from '../../test/support/tds-vectors.ts';
import { ProtocolError } from '../error.ts';
import { md4 } from './md4.ts';
import { authenticate, channelBinding, negotiate, ntlmv2Response, ntowfv2, parseChallenge } from './ntlm.ts';

const hex = (bytes: Buffer): string => bytes.toString('hex');

describe('MD4', () => {
  // RFC 1320, appendix A.5.
  it.each([
    ['', '31d6cfe0d16ae931b73c59d7e0c089c0'],
    ['a', 'bde52cb31de33e46245e05fbdbd6fb24'],
    ['abc', 'a448017aaf21d8525fc10ae87aa6729d'],
    ['message digest', 'd9130a8164549fe818874806e1c7014b'],
    ['abcdefghijklmnopqrstuvwxyz', 'd79e1c308aa5bbcdeea8ed63df412da9'],
    [
      '12345678901234567890123456789012345678901234567890123456789012345678901234567890',
      'e33b4ddc9c38f2199c3e7b164fcc0536',
    ],
  ])('of %j', (text, digest) => {
    expect(hex(md4(Buffer.from(text)))).toBe(digest);
  });

  it('agrees with the other one at every length around its block size', () => {
    for (let length = 0; length < 200; length += 1) {
      const message = Buffer.alloc(length, length);
      expect(hex(md4(message))).toBe(hex(otherMd4(message)));
    }
  });
});

describe('NTLMv2', () => {
  const account = { domain: 'Domain', user: 'User', password: Buffer.from('Password', 'utf16le') };
  const serverChallenge = Buffer.from('0123456789abcdef', 'hex');
  const clientChallenge = Buffer.alloc(8, 0xaa);

  it('computes what MS-NLMP 4.2.4 computes', () => {
    expect(hex(md4(account.password))).toBe(hex(vectorPayload('nlmp-ntowfv1-Password')));
    const key = ntowfv2(account);
    expect(hex(key)).toBe(hex(vectorPayload('nlmp-ntowfv2')));
    // The published blob: its target information without the terminator that this code appends.
    const temp = vectorPayload('nlmp-temp');
    const targetInfo = temp.subarray(28, temp.length - 4);
    const { proof, response } = ntlmv2Response(
      key,
      serverChallenge,
      clientChallenge,
      Buffer.alloc(8),
      targetInfo,
    );
    expect(hex(response.subarray(16))).toBe(hex(temp));
    expect(hex(proof)).toBe(hex(vectorPayload('nlmp-ntproofstr')));
  });

  it('reads a challenge of a real Windows server', () => {
    const challenge = parseChallenge(vectorPayload('ntlm-type2-challenge'));
    expect(challenge.targetName).toBe('FWB');
    expect(hex(challenge.serverChallenge)).toBe('6999bc21067c77f4');
    expect(challenge.targetInfoBytes).toBe(172);
    expect(challenge.targetInfo.map(({ id }) => id)).toEqual([2, 1, 4, 3, 5, 7]);
  });

  it('answers it with an integrity code, channel binding and the service name', () => {
    const binding = channelBinding({ type: 'tls-unique', data: Buffer.from('finished') });
    const message = authenticate({
      account,
      negotiateMessage: negotiate(),
      challengeMessage: vectorPayload('ntlm-type2-challenge'),
      clientChallenge,
      servicePrincipal: 'MSSQLSvc/db1.example.com:1433',
      binding,
    });
    expect(message.toString('latin1', 0, 8)).toBe('NTLMSSP\0');
    expect(message.readUInt32LE(8)).toBe(3);
    const response = message.subarray(
      message.readUInt32LE(24),
      message.readUInt32LE(24) + message.readUInt16LE(20),
    );
    const pairs = pairsOf(response.subarray(44));
    expect(hex(pairs.get(10)!)).toBe(hex(binding));
    expect(pairs.get(9)!.toString('utf16le')).toBe('MSSQLSvc/db1.example.com:1433');
    expect(pairs.get(6)!.readUInt32LE(0) & 2).toBe(2);
    // The server's own time comes back, in the blob and among the pairs.
    expect(hex(response.subarray(24, 32))).toBe('7d9647e8aed6d501');
    expect(message.subarray(72, 88).every((byte) => byte === 0)).toBe(false);
    expect(message.includes(account.password)).toBe(false);
  });

  it('binds to a channel as RFC 5929 and the GSS structure say', () => {
    const data = Buffer.from('0102030405060708090a0b0c', 'hex');
    const structure = Buffer.concat([
      Buffer.alloc(16),
      Buffer.from([23, 0, 0, 0]),
      Buffer.from('tls-unique:'),
      data,
    ]);
    expect(hex(channelBinding({ type: 'tls-unique', data }))).toBe(
      createHash('md5').update(structure).digest('hex'),
    );
  });

  it('does not answer a challenge without a time', () => {
    const challenge = Buffer.from(vectorPayload('ntlm-type2-challenge'));
    challenge.writeUInt16LE(0, 40);
    const proof = {
      account,
      negotiateMessage: negotiate(),
      challengeMessage: challenge,
      clientChallenge,
      servicePrincipal: '',
      binding: null,
    };
    expect(() => authenticate(proof)).toThrow(/no time/);
  });

  it('answers any challenge, or rejects it as the server’s fault', () => {
    const whole = vectorPayload('ntlm-type2-challenge');
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 5 }), (changes) => {
        const challenge = Buffer.from(whole);
        for (const [at, value] of changes) challenge[at] = value;
        try {
          authenticate({
            account,
            negotiateMessage: negotiate(),
            challengeMessage: challenge,
            clientChallenge,
            servicePrincipal: 'MSSQLSvc/db:1433',
            binding: null,
          });
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('rejects every cut challenge as the server’s fault', () => {
    const whole = vectorPayload('ntlm-type2-challenge');
    for (let length = 0; length < whole.length; length += 1) {
      expect(() => parseChallenge(whole.subarray(0, length))).toThrow(ProtocolError);
    }
  });
});

function pairsOf(bytes: Buffer): Map<number, Buffer> {
  const pairs = new Map<number, Buffer>();
  for (let at = 0; bytes.readUInt16LE(at) !== 0; at += 4 + bytes.readUInt16LE(at + 2)) {
    pairs.set(bytes.readUInt16LE(at), bytes.subarray(at + 4, at + 4 + bytes.readUInt16LE(at + 2)));
  }
  return pairs;
}
