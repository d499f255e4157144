import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { vectorPayload } from '../../test/support/tds-vectors.ts';
import { ProtocolError } from '../error.ts';
import { claimOf } from './accept.ts';
import { buildFedAuth, parseFedAuth, passedFeatures } from './features.ts';
import {
  buildLogin7,
  type Login7Replacement,
  ownLogin7,
  parseLogin7,
  scramble,
  unscramble,
  utf16,
} from './login7.ts';

const CLIENTS = [
  ['lab-tedious-login7-1', '7.4', 'bob', 'lab', 'Tedious', 'db1', 4096],
  ['lab-mssql-jdbc-login7-1', '7.4', 'bob', 'Microsoft JDBC Driver for SQL Server', null, 'db1', 8000],
  ['lab-freetds-login7-1', '7.4', 'bob', 'TSQL', 'TDS-Library', 'db1', 4096],
  ['lab-pytds-login7-1', '7.4', 'bob', 'pytds', 'Python TDS Library', 'db1', 4096],
  ['lab-jtds-login7-1', '7.1', 'bob', 'jTDS', 'jTDS', 'db1', 0],
] as const;

function replacement(fields: Partial<Login7Replacement> = {}): Login7Replacement {
  return {
    version: '7.4',
    packetBytes: 4096,
    serverName: 'db1.example.com',
    database: 'sales',
    userName: utf16('svc'),
    password: utf16('s3cret'),
    sspi: Buffer.alloc(0),
    features: null,
    ...fields,
  };
}

describe('LOGIN7 of recorded clients', () => {
  it.each(CLIENTS)('%s', (id, version, user, program, library, database, packetBytes) => {
    const login = parseLogin7(vectorPayload(id));
    expect(login.version).toBe(version);
    expect(login.packetBytes).toBe(packetBytes);
    expect(unscramble(login.password).toString('utf16le')).toBe('pw');
    const claim = claimOf(login, 'full');
    expect(claim).toMatchObject({ user, program, database, replication: false });
    if (library !== null) expect(claim.attributes['driver']).toBe(library);
  });

  it('is read as the specification reads its own example', () => {
    const login = parseLogin7(vectorPayload('mstds-4.2-login7'));
    expect(login.version).toBe('7.2');
    expect(login.packetBytes).toBe(4096);
    expect(claimOf(login, 'clear')).toMatchObject({
      user: 'sa',
      program: 'OSQL-32',
      database: null,
      attributes: { host: 'skostov1', driver: 'ODBC' },
    });
    expect(login.password.length).toBe(0);
  });

  it('keeps what the JDBC driver says of itself', () => {
    const { attributes } = claimOf(parseLogin7(vectorPayload('lab-mssql-jdbc-login7-1')), 'full');
    expect(attributes['user_agent']).toMatch(/^1\|MS-JDBC\|13\.5/);
  });
});

describe('LOGIN7 toward the server', () => {
  it.each(CLIENTS)('%s keeps everything but the identity', (id) => {
    const before = parseLogin7(vectorPayload(id));
    const payload = buildLogin7(before, replacement({ version: before.version, features: before.features }));
    const after = parseLogin7(payload);
    expect(payload.readUInt32LE(0)).toBe(payload.length);
    for (const field of ['hostName', 'programName', 'libraryName', 'language', 'clientId'] as const) {
      expect(after[field].toString('hex'), field).toBe(before[field].toString('hex'));
    }
    // Program version, process id, time zone and locale.
    expect(after.head.subarray(12, 20)).toEqual(before.head.subarray(12, 20));
    expect(after.head.subarray(28, 36)).toEqual(before.head.subarray(28, 36));
    expect(after.head[24]).toBe(before.head[24]);
    expect(after.head[26]).toBe(before.head[26]);
    expect(after.userName.toString('utf16le')).toBe('svc');
    expect(unscramble(after.password).toString('utf16le')).toBe('s3cret');
    expect(after.serverName.toString('utf16le')).toBe('db1.example.com');
    expect(after.database.toString('utf16le')).toBe('sales');
    expect(after.features?.map((feature) => feature.id)).toEqual(
      before.features?.map(({ id: feature }) => feature),
    );
    expect(after.head.readUInt32LE(4)).toBe(before.head.readUInt32LE(4));
  });

  it.each(CLIENTS)('%s is laid out with ascending offsets', (id) => {
    const login = parseLogin7(vectorPayload(id));
    const payload = buildLogin7(login, replacement({ version: login.version, features: login.features }));
    const offsets = [36, 40, 44, 48, 52, 56, 60, 64, 68, 78, 82].map((at) => payload.readUInt16LE(at));
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
    expect(offsets[0]).toBe(login.version === '7.1' ? 86 : 94);
  });

  it('has names of 128 characters at most', () => {
    const login = parseLogin7(vectorPayload('lab-tedious-login7-1'));
    const long = { ...login, programName: utf16('p'.repeat(300)) };
    const read = parseLogin7(buildLogin7(long, replacement()));
    expect(read.programName.toString('utf16le')).toBe('p'.repeat(128));
  });

  it('asks for no feature that would let the client go past the gateway', () => {
    const features = parseLogin7(vectorPayload('lab-mssql-jdbc-login7-1')).features!;
    expect(features.map(({ id }) => id)).toEqual([0x10, 4, 9, 0x0a, 0x0b, 0x0e, 0x0d, 0x0f, 1]);
    expect(passedFeatures(features).map(({ id }) => id)).toEqual([0x10, 4, 9, 0x0a, 0x0e, 0x0d]);
    const payload = buildLogin7(
      parseLogin7(vectorPayload('lab-mssql-jdbc-login7-1')),
      replacement({ features: passedFeatures(features) }),
    );
    expect(payload.at(-1)).toBe(0xff);
  });

  it('carries an access token where the client had no features at all', () => {
    const login = { ...parseLogin7(vectorPayload('lab-pytds-login7-1')), features: null };
    const payload = buildLogin7(login, {
      ...replacement({ userName: Buffer.alloc(0), password: Buffer.alloc(0) }),
      features: [buildFedAuth(utf16('abc'), false)],
    });
    const after = parseLogin7(payload);
    expect(payload.subarray(-17).toString('hex')).toBe('020b00000002060000006100620063' + '00ff');
    expect(parseFedAuth(after.features![0]!.data)).toEqual({ library: 'token', token: utf16('abc') });
    expect(payload[27]! & 0x10).toBe(0x10);
    expect(after.userName.length + after.password.length).toBe(0);
  });

  it('speaks TDS 7.4 to a server without TDS 8.0', () => {
    const login = ownLogin7('8.0', 'app', 'host');
    expect(buildLogin7(login, replacement({ version: '8.0' })).readUInt32LE(4)).toBe(0x08000000);
    expect(buildLogin7(login, replacement({ version: '7.4' })).readUInt32LE(4)).toBe(0x74000004);
  });

  it('marks a Windows sign-in and nothing else as integrated', () => {
    const login = parseLogin7(vectorPayload('lab-tedious-login7-1'));
    expect(buildLogin7(login, replacement())[25]! & 0x80).toBe(0);
    const sspi = buildLogin7(login, replacement({ sspi: Buffer.from('NTLMSSP\0') }));
    expect(sspi[25]! & 0x80).toBe(0x80);
    expect(parseLogin7(sspi).integrated).toBe(true);
  });
});

describe('the password in LOGIN7', () => {
  it('is obfuscated as the specification says', () => {
    expect(scramble(utf16('pw')).toString('hex')).toBe('a2a5d2a5');
  });

  it('comes back whole, whatever its characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 128 }), (password) => {
        expect(unscramble(scramble(utf16(password))).toString('utf16le')).toBe(
          utf16(password).toString('utf16le'),
        );
      }),
    );
  });
});

describe('odd and hostile LOGIN7', () => {
  const whole = vectorPayload('lab-tedious-login7-1');

  it('reads every pair that points outside as empty', () => {
    const payload = Buffer.from(whole);
    for (const at of [36, 40, 44, 48, 52, 60, 64, 68, 78, 82, 86]) {
      payload.writeUInt16LE(0xfff0, at);
      payload.writeUInt16LE(0x7fff, at + 2);
    }
    payload[27] = 0;
    const login = parseLogin7(payload);
    expect(login.userName.length + login.password.length + login.database.length).toBe(0);
    expect(login.passwordChange).toBe(false);
  });

  it('does not let a wrong host name length carry the password into the record', () => {
    const payload = Buffer.from(whole);
    payload.writeUInt16LE(94, 38);
    const login = parseLogin7(payload);
    expect(login.hostName.includes(Buffer.from('a2a5d2a5', 'hex'))).toBe(false);
    expect(JSON.stringify(claimOf(login, 'clear'))).not.toContain('\ua5a2');
  });

  it('sees a new password, and none where only its offset is odd', () => {
    const payload = Buffer.from(whole);
    payload.writeUInt16LE(94, 86);
    expect(parseLogin7(payload).passwordChange).toBe(false);
    payload.writeUInt16LE(2, 88);
    expect(parseLogin7(payload).passwordChange).toBe(true);
  });

  it.each([
    ['big-endian', 24, 0x01],
    ['EBCDIC', 24, 0x02],
  ])('refuses a %s client', (_name, at, bit) => {
    const payload = Buffer.from(whole);
    payload[at] = payload[at]! | bit;
    expect(() => parseLogin7(payload)).toThrow(ProtocolError);
  });

  it('refuses a FeatureExt that runs past the payload', () => {
    const payload = Buffer.from(whole);
    payload[payload.length - 1] = 0x0a;
    expect(() => parseLogin7(payload)).toThrow(/FeatureExt/);
  });

  it('survives any cut and any changed byte', () => {
    for (const [id] of CLIENTS) {
      const bytes = vectorPayload(id);
      for (let length = 0; length < bytes.length; length += 1) {
        expectNothingButProtocolErrors(() => parseLogin7(bytes.subarray(0, length)));
      }
    }
    fc.assert(
      fc.property(
        fc.nat(whole.length - 1),
        fc.nat(255),
        fc.nat(whole.length - 1),
        fc.nat(255),
        (a, x, b, y) => {
          const payload = Buffer.from(whole);
          payload[a] = x;
          payload[b] = y;
          expectNothingButProtocolErrors(() => {
            const login = parseLogin7(payload);
            buildLogin7(login, replacement({ version: login.version }));
          });
        },
      ),
      { numRuns: 3000 },
    );
  });
});

function expectNothingButProtocolErrors(run: () => void): void {
  try {
    run();
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
  }
}
