import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vector, vectorPayload } from '../../test/support/tds-vectors.ts';
import { ProtocolError } from '../error.ts';
import { buildPrelogin, buildPreloginAnswer, parsePrelogin, versionText } from './prelogin.ts';

describe('PRELOGIN of recorded clients and servers', () => {
  it.each([
    ['mstds-4.1-prelogin-request', 1, true, null],
    ['mssstds-4.1-prelogin-request', 0, false, null],
    ['sql2000-prelogin-request', 1, false, null],
    ['sql2008sp2-prelogin-request', 1, false, null],
    ['lab-tedious-prelogin-1', 1, false, 1],
    ['lab-mssql-jdbc-prelogin-1', 1, false, null],
    ['lab-freetds-prelogin-1', 0, false, null],
    ['lab-pytds-prelogin-1', 1, false, null],
    ['lab-jtds-prelogin-1', 0, false, null],
  ] as const)('%s', (id, encryption, mars, fedAuthRequired) => {
    const prelogin = parsePrelogin(vectorPayload(id), 'client');
    expect(prelogin).toMatchObject({ encryption, mars, fedAuthRequired });
  });

  it.each([
    ['sql2000-prelogin-response', '8.0.760', 1],
    ['sql2014-prelogin-response', '12.0.6024', 0],
    ['sql2008sp2-prelogin-response', '10.0.4000', 1],
    ['sql2008sp3-prelogin-response', '10.0.5512', 2],
    ['prelogin-response-fedauth', '12.0.5349', 2],
  ] as const)('%s', (id, version, encryption) => {
    const prelogin = parsePrelogin(vectorPayload(id), 'server');
    expect(versionText(prelogin.version!)).toBe(version);
    expect(prelogin.encryption).toBe(encryption);
  });

  it('takes the flag bits off the encryption value', () => {
    const flagged = Buffer.from('0100060001ff81', 'hex');
    expect(parsePrelogin(flagged, 'client').encryption).toBe(1);
  });
});

describe('PRELOGIN answer', () => {
  const version = Buffer.from('100003e80006', 'hex');

  it('is the bytes that every driver has been seen to take', () => {
    const answer = buildPreloginAnswer({ version, encryption: 3, mars: false, fedAuthRequired: null });
    const ready = '0401002b0000010000001a00060100200001020021000103002200000400220001ff100003e80006030000';
    expect(answer.toString('hex')).toBe(ready.slice(16));
  });

  it('has VERSION and ENCRYPTION first and its data without gaps, as jTDS reads by position', () => {
    const answer = buildPreloginAnswer({ version, encryption: 1, mars: true, fedAuthRequired: 0 });
    const entries = [];
    for (let at = 0; answer[at] !== 0xff; at += 5) {
      entries.push({
        token: answer[at],
        offset: answer.readUInt16BE(at + 1),
        length: answer.readUInt16BE(at + 3),
      });
    }
    expect(entries.map(({ token }) => token)).toEqual([0, 1, 2, 3, 4, 6]);
    let offset = entries.length * 5 + 1;
    for (const entry of entries) {
      expect(entry.offset).toBe(offset);
      offset += entry.length;
    }
    expect(offset).toBe(answer.length);
  });
});

describe('malformed PRELOGIN', () => {
  it.each([
    ['an option past the payload', '00ffff0006ff'],
    ['no terminator', '0000060000'],
    ['a table that is cut', '000006'],
    ['nothing', ''],
  ])('%s is a fault of its sender', (_name, hex) => {
    expect(() => parsePrelogin(Buffer.from(hex, 'hex'), 'client')).toThrow(ProtocolError);
  });

  it('never throws anything but a ProtocolError', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        try {
          parsePrelogin(Buffer.from(bytes), 'client');
        } catch (error) {
          expect(error).toBeInstanceOf(ProtocolError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

it('asks servers for what it reads back', () => {
  const asked = parsePrelogin(buildPrelogin(1, true), 'client');
  expect(asked).toMatchObject({ encryption: 1, mars: true, fedAuthRequired: 1 });
  expect(vector('mstds-4.1-prelogin-request')[0]).toBe(0x12);
});
