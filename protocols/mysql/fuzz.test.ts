import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  column,
  command,
  eof,
  error,
  FLAG,
  lenenc,
  ok,
  packets,
  pieces,
  query,
  resultset,
  type ScriptFacts,
  Session,
  u16,
  u32,
} from '../../test/support/mysql-scripts.ts';

/**
 * Whatever is sent, an observer must not throw, must let exactly the bytes through that it does not keep for a reason,
 * and must hold no more than what a packet may cost.
 */
const CLIENT: readonly Buffer[] = [
  query('select 1; select 2'),
  command(3, '\0\x01', 'select ?'),
  command(0x16, 'select ?, ?'),
  command(0x17, u32(1), 0, u32(1), 0, 1, 3, 0, 253, 0, u32(1), lenenc('x')),
  command(0x17, u32(0xffff_ffff), 8, u32(1), 1, 0, 1, 252, 0, lenenc('n'), lenenc('x')),
  command(0x18, u32(1), u16(1), 'long data'),
  command(0xfa, u32(1), u16(128), 3, 0, 253, 0, 0, u32(1), 1, 0, u32(2), 0, lenenc('y')),
  command(0x1c, u32(1), u32(10)),
  command(0x19, u32(1)),
  command(0x11, 'u\0', 20, Buffer.alloc(20, 1), 'db\0', u16(45), 'mysql_native_password\0'),
  command(0x04, 't\0', '%'),
  command(0x0e),
  command(0x1f),
  command(0x08),
  packets(0, ''),
  packets(2, 'data of a file'),
];

const SERVER: readonly Buffer[] = [
  packets(1, ok()),
  packets(1, ok(3, 0x0a)),
  packets(1, error(1064, '42000')),
  packets(1, ...resultset(false, ['a', 'b'], [['1', null]])),
  packets(1, ...resultset(true, ['a'], [['1'], ['2']], 0x0a)),
  packets(1, '00 01000000 0100 0200 00 0000', column('?'), column('?'), eof(false), column('a'), eof(false)),
  packets(1, '00 02000000 0000 0000 00 0000'),
  packets(1, Buffer.concat([Buffer.of(0xfb), Buffer.from('/file')])),
  packets(1, 'ffffff0102020000000f456e642062756c6b20696e73657274'),
  packets(1, Buffer.of(1), column('a'), eof(false, 0x42)),
  packets(1, ''),
  packets(
    1,
    Buffer.concat([Buffer.of(0, 0, 0), u16(0x4002), u16(0), lenenc(''), lenenc(Buffer.of(0, 3, 1, 0x78, 9))]),
  ),
];

const FACTS: readonly ScriptFacts[] = [
  {},
  { capabilities: FLAG.deprecateEof | FLAG.sessionTrack | FLAG.multiStatements },
  { capabilities: FLAG.deprecateEof | FLAG.optionalMetadata | FLAG.queryAttributes, allowLocalInfile: true },
  { flavor: 'mariadb', extended: 0x3d, allowLocalInfile: true, allowReplication: true },
];

interface Turn {
  readonly fromClient: boolean;
  readonly bytes: Buffer;
}

const mutation = fc.record({ at: fc.nat(), value: fc.nat(255), cut: fc.boolean() });
const turn = fc
  .record({
    fromClient: fc.boolean(),
    pick: fc.nat(),
    mutations: fc.array(mutation, { maxLength: 3 }),
  })
  .map(({ fromClient, pick, mutations }): Turn => {
    const corpus = fromClient ? CLIENT : SERVER;
    let bytes = Buffer.from(corpus[pick % corpus.length]!);
    for (const { at, value, cut } of mutations) {
      if (cut) bytes = bytes.subarray(0, 1 + (at % bytes.length));
      else {
        // A length of more than 64 KiB would only make all that follows one packet.
        const index = at % bytes.length;
        bytes[index] = index === 2 ? 0 : value;
      }
    }
    return { fromClient, bytes };
  });

const noise = fc
  .tuple(fc.boolean(), fc.uint8Array({ maxLength: 40 }))
  .map(([fromClient, bytes]): Turn => ({ fromClient, bytes: Buffer.from(bytes) }));

/** `rows` of each result are sampled; null: names are not kept either. */
function run(facts: ScriptFacts, turns: readonly Turn[], size: number, rows: number | null): Session {
  const session = new Session(facts, rows === null ? {} : { sampleRows: rows, columns: true });
  for (const { fromClient, bytes } of turns) {
    for (const piece of pieces(bytes, size)) {
      if (fromClient) session.observer.client(piece);
      else session.observer.server(piece);
    }
  }
  session.observer.close('unknown');
  return session;
}

test('nothing that peers send makes an observer throw or lose a statement', () => {
  fc.assert(
    fc.property(
      fc.nat(FACTS.length - 1),
      fc.array(fc.oneof({ weight: 5, arbitrary: turn }, { weight: 1, arbitrary: noise }), { maxLength: 12 }),
      fc.constantFrom(0, 1, 3),
      fc.constantFrom(null, 0, 3),
      (facts, turns, size, rows) => {
        const session = run(FACTS[facts]!, turns, size, rows);
        // Each statement that began ends, once.
        expect(new Set(session.ended).size).toBe(session.ended.length);
        expect(new Set(session.begun)).toEqual(new Set(session.ended));
      },
    ),
    { numRuns: 1500 },
  );
});

test('where it is cut makes no difference', () => {
  fc.assert(
    fc.property(
      fc.nat(FACTS.length - 1),
      fc.array(turn, { maxLength: 8 }),
      fc.integer({ min: 1, max: 6 }),
      fc.constantFrom(0, 3),
      (facts, turns, size, rows) => {
        const whole = run(FACTS[facts]!, turns, 0, rows);
        const cut = run(FACTS[facts]!, turns, size, rows);
        expect(cut.seen()).toEqual(whole.seen());
        expect(cut.received()).toEqual(whole.received());
        expect(cut.sent()).toEqual(whole.sent());
      },
    ),
    { numRuns: 600 },
  );
});
