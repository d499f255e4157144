import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vectorPayload } from '../../test/support/tds-vectors.ts';
import { ProtocolError } from '../error.ts';
import { LoginResponse } from './login-response.ts';

const REAL = vectorPayload('sql2008sp3-login-response');
const WITH_FEATURES = vectorPayload('login-response-with-featureextack');

function read(payload: Buffer): LoginResponse {
  const response = new LoginResponse('7.4');
  response.add(payload);
  return response;
}

/** `REAL` with tokens put in before its final DONE. */
function withTokens(...hex: string[]): Buffer {
  return Buffer.concat([
    REAL.subarray(0, -13),
    ...hex.map((token) => Buffer.from(token, 'hex')),
    REAL.subarray(-13),
  ]);
}

const ROUTING = 'e32000141b000099050b006400620039002e006500780061006d0070006c0065000000';

describe('the answer to LOGIN7', () => {
  it('of a real server is read whole and passed on byte for byte', () => {
    const response = read(REAL);
    expect(response).toMatchObject({
      database: 'SubmissionPortal',
      packetBytes: 4096,
      done: true,
      doneError: false,
      acknowledgement: { version: '7.3B', program: 'Microsoft SQL Server', serverVersion: '10.0.5512' },
    });
    expect(response.collation?.toString('hex')).toBe('0904000100');
    expect(response.forClient([], false).equals(REAL)).toBe(true);
  });

  it('loses an acknowledgement that the client did not ask for', () => {
    const response = read(WITH_FEATURES);
    expect(response.acknowledged(2)).toBe(true);
    expect(response.forClient([], false).includes(Buffer.from([0xae]))).toBe(
      REAL.includes(Buffer.from([0xae])),
    );
    const utf8Only = response.forClient([0x0a], false);
    expect(utf8Only.includes(Buffer.from('ae0a0100000001ff', 'hex'))).toBe(true);
  });

  it('gains the acknowledgement that a client with a token waits for', () => {
    const payload = read(REAL).forClient([], true);
    expect(payload.subarray(-13 - 7, -13).toString('hex')).toBe('ae0200000000ff');
  });

  it('tells of routing and keeps it from the client', () => {
    const response = read(withTokens(ROUTING));
    expect(response.routing).toEqual({ host: 'db9.example', port: 1433, database: null });
    expect(response.forClient([], false).equals(REAL)).toBe(true);
  });

  it('tells of enhanced routing with its database', () => {
    const host = Buffer.from('h2', 'utf16le').toString('hex');
    const database = Buffer.from('d7', 'utf16le').toString('hex');
    const data = `00${'9905'}0200${host}0200${database}`;
    const body = `15${lengthHex(data)}${data}0000`;
    const response = read(withTokens(`e3${lengthHex(body)}${body}`));
    expect(response.routing).toEqual({ host: 'h2', port: 1433, database: 'd7' });
  });

  it('keeps a mirroring partner and a user instance from the client', () => {
    const partner = Buffer.from('db2', 'utf16le').toString('hex');
    for (const type of ['0d', '13']) {
      const body = `${type}03${partner}00`;
      expect(
        read(withTokens(`e3${lengthHex(body)}${body}`))
          .forClient([], false)
          .equals(REAL),
      ).toBe(true);
    }
  });

  it('takes one change out of a token with several', () => {
    const partner = Buffer.from('db2', 'utf16le').toString('hex');
    const kept = '04043800300030003000043400300039003600';
    const body = `0d03${partner}00${kept}`;
    const payload = read(withTokens(`e3${lengthHex(body)}${body}`)).forClient([], false);
    expect(payload.includes(Buffer.from(`e3${lengthHex(kept)}${kept}`, 'hex'))).toBe(true);
    expect(payload.includes(Buffer.from(partner, 'hex'))).toBe(false);
  });

  it('says which features change later tokens', () => {
    const features = 'ae' + '04' + '01000000' + '01' + '09' + '02000000' + '0201' + 'ff';
    const response = read(withTokens(features));
    expect(response.sessionFeatures([4, 9])).toEqual({ columnEncryption: true, dataClassification: 2 });
    expect(response.sessionFeatures([])).toEqual({ columnEncryption: false, dataClassification: 0 });
  });

  it('reads an old server’s narrow DONE', () => {
    const error = 'aa1c0018480000010e0600440065006e006900650064000270007800000100';
    const response = read(Buffer.from(`${error}fd0200000000000000`, 'hex'));
    expect(response).toMatchObject({ done: true, doneError: true });
    expect(response.errors).toEqual([{ number: 18456, state: 1, class: 14 }]);
  });

  it.each([
    ['an unknown token', '61000000'],
    ['a LOGINACK of an unknown version', 'ad0a0001990000040000000000'],
    ['routing over something else', 'e30b0014060001990501004100' + '0000'],
  ])('fails for %s', (_name, token) => {
    expect(() => read(withTokens(token))).toThrow(ProtocolError);
  });

  it('fails at every cut but between tokens, and never in another way', () => {
    for (const whole of [REAL, WITH_FEATURES, withTokens(ROUTING)]) {
      for (let length = 0; length < whole.length; length += 1) {
        try {
          expect(read(whole.subarray(0, length)).done).toBe(false);
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      }
    }
  });
});

it('survives any bytes, with nothing but protocol errors', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(REAL, WITH_FEATURES, withTokens(ROUTING)),
      fc.array(fc.tuple(fc.nat(480), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      (whole, changes) => {
        const payload = Buffer.from(whole);
        for (const [at, value] of changes) payload[at % payload.length] = value;
        try {
          const response = read(payload);
          response.forClient([2, 4, 10], true);
        } catch (error) {
          if (!(error instanceof ProtocolError)) throw error;
        }
      },
    ),
    { numRuns: 5000 },
  );
});

function lengthHex(hex: string): string {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(hex.length / 2);
  return bytes.toString('hex');
}
