import { describe, expect, test } from 'vitest';
import { newId } from '../../src/lib/id.ts';
import type {
  HoldChange,
  RecordingIndex,
  SessionPatch,
  StatementFilter,
  StatementRow,
} from '../../src/store/recording-index.ts';

/** A session's patch with everything filled in. */
export function sessionPatch(id: string, set: SessionPatch['set'] = {}): SessionPatch {
  return {
    id,
    set: {
      gateway: 'gw-1',
      principal: 'ana',
      resource: 'orders',
      engine: 'postgres',
      database: null,
      database_user: 'app',
      client_address: '127.0.0.1:50000',
      started_at: 1000,
      state: 'live',
      risk: 0,
      ...set,
    },
    add: {},
  };
}

export function statementRow(session: string, seq: number, more: Partial<StatementRow> = {}): StatementRow {
  return {
    session,
    seq,
    at: 1000 + seq,
    kind: 'query',
    text: `SELECT ${seq}`,
    status: 'ok',
    rows_returned: 1,
    rows_affected: null,
    duration_us: 100,
    error_code: null,
    tables: [],
    effects: ['read'],
    risk: 0,
    risk_reason: null,
    ...more,
  };
}

/** What every index of recordings must do. `open` gives an empty one. */
export function indexContract(open: () => Promise<RecordingIndex>): void {
  const seqs = async (index: RecordingIndex, filter: Partial<StatementFilter>): Promise<number[]> =>
    (await index.search({ limit: 100, ...filter })).map(({ seq }) => seq);

  test('sessions are patched field by field, and grow', async () => {
    const index = await open();
    const id = newId();
    await index.write({ sessions: [sessionPatch(id, { statements: 1, bytes: 0 })], statements: [] });
    await index.write({
      sessions: [
        {
          id,
          set: {
            statements: 7,
            client_program: null,
            reason: 'client_closed',
            ended_at: 2000.5,
            state: 'ended',
          },
          add: { errors: 2, bytes: 9_007_199_254_740 },
          raise: { risk: 3, risk_reason: 'it drops' },
        },
        { id: newId(), set: {}, add: { errors: 1 } },
      ],
      statements: [],
    });
    await index.write({
      sessions: [{ id, set: {}, add: { errors: 1 }, raise: { risk: 1, risk_reason: 'less' } }],
      statements: [],
    });
    expect(await index.session(id)).toEqual({
      id,
      gateway: 'gw-1',
      principal: 'ana',
      resource: 'orders',
      engine: 'postgres',
      database: null,
      database_user: 'app',
      client_address: '127.0.0.1:50000',
      client_program: null,
      server_session: null,
      started_at: 1000,
      ended_at: 2000.5,
      state: 'ended',
      reason: 'client_closed',
      statements: 7,
      errors: 3,
      denied: 0,
      rows_returned: 0,
      bytes: 9_007_199_254_740,
      parts: 0,
      held: 0,
      risk: 3,
      risk_reason: 'it drops',
    });
    expect(await index.session(newId())).toBeNull();
    await index.close();
  });

  test('a statement that is written again is replaced, and one that ends late gets its outcome', async () => {
    const index = await open();
    const id = newId();
    const running = { status: 'unknown', rows_returned: null, duration_us: null };
    await index.write({
      sessions: [sessionPatch(id)],
      statements: [statementRow(id, 1, running), statementRow(id, 2, running), statementRow(id, 1)],
    });
    await index.write({
      sessions: [],
      statements: [statementRow(id, 1, { text: 'SELECT other', tables: ['b'] })],
      ends: [
        {
          session: id,
          seq: 2,
          status: 'error',
          rows_returned: 5,
          rows_affected: Number.MAX_SAFE_INTEGER,
          duration_us: 7,
          error_code: '42P01',
        },
        { ...running, session: id, seq: 3, rows_affected: null, error_code: null },
      ],
    });
    expect(await index.search({ limit: 10 })).toEqual([
      statementRow(id, 2, {
        status: 'error',
        rows_returned: 5,
        rows_affected: Number.MAX_SAFE_INTEGER,
        duration_us: 7,
        error_code: '42P01',
      }),
      statementRow(id, 1, { text: 'SELECT other', tables: ['b'] }),
    ]);
    expect(await seqs(index, { text: '1' })).toEqual([]);
    expect(await seqs(index, { table: 'b' })).toEqual([1]);
    await index.close();
  });

  describe('finds statements', () => {
    const filters: readonly (readonly [Partial<StatementFilter>, readonly number[]])[] = [
      [{ text: 'custom' }, [3, 2]],
      [{ text: 'CUSTOMERS name' }, [2]],
      [{ text: 'naïve' }, [4]],
      [{ text: 'NAIVE' }, [4]],
      [{ text: 'мир' }, [4]],
      [{ text: '$1' }, [5]],
      [{ text: '_under' }, [5]],
      [{ text: "x') OR 1=1 --" }, []],
      [{ text: '"*:&|!()' }, []],
      [{ text: `o'brien` }, [5]],
      [{ table: 'customers' }, [3, 2]],
      [{ table: 'sales.customers' }, [3]],
      [{ table: 'ales.customers' }, []],
      [{ table: 'CUSTOMERS' }, [3, 2]],
      [{ table: '%' }, []],
      [{ table: 'odd name' }, [5]],
      [{ effect: 'write' }, [5, 3]],
      [{ effect: 'rit' }, []],
      [{ riskMin: 1 }, [5, 3]],
      [{ riskMin: 3 }, [5]],
      [{ status: 'error' }, [4]],
      [{ rowsMin: 10 }, [3, 2]],
      [{ durationMsMin: 5 }, [5]],
      [{ since: 1002, until: 1004 }, [3, 2]],
      [{ principal: 'ana' }, [5, 4, 3, 2, 1]],
      [{ principal: 'ben' }, [1]],
      [{ resource: 'ledger', text: 'select' }, [1]],
      [{ engine: 'mysql', table: 'customers' }, []],
      [{ seq: 3 }, [3]],
      [{ limit: 2, offset: 1 }, [4, 3]],
    ];

    test.each(filters)('by %j', async (filter, expected) => {
      const index = await open();
      const id = newId(1);
      const other = newId(2);
      await index.write({
        sessions: [
          sessionPatch(id),
          sessionPatch(other, { principal: 'ben', resource: 'ledger', engine: 'mysql' }),
        ],
        statements: [
          statementRow(id, 1, { text: null, kind: 'rpc' }),
          statementRow(id, 2, {
            text: 'SELECT name FROM customers',
            tables: ['Customers'],
            rows_returned: 10,
          }),
          statementRow(id, 3, {
            text: 'UPDATE sales.customers SET x = 1',
            tables: ['sales.customers', 'sales.customers'],
            effects: ['read', 'write'],
            rows_returned: null,
            rows_affected: 11,
            risk: 1,
          }),
          statementRow(id, 4, { text: `SELECT 'naïve мир'`, status: 'error', rows_returned: null }),
          statementRow(id, 5, {
            text: `INSERT INTO "odd name" VALUES ($1, _under_, 'O''Brien')\0`,
            tables: ['"odd name"', 'odd name'],
            effects: ['write'],
            risk: 3,
            risk_reason: 'because',
            duration_us: 5000,
          }),
          statementRow(other, 1, { at: 500 }),
        ],
      });
      const { principal } = filter;
      const own = principal === undefined && filter.resource === undefined ? { session: id } : {};
      expect(await seqs(index, { ...own, ...filter })).toEqual(expected);
      await index.close();
    });
  });

  test('lists sessions by their facts, the latest first', async () => {
    const index = await open();
    const ids = [newId(1), newId(2), newId(3)];
    await index.write({
      sessions: [
        sessionPatch(ids[0]!, { started_at: 10, risk: 3 }),
        sessionPatch(ids[1]!, { started_at: 20, principal: 'ben', state: 'ended', reason: 'killed' }),
        sessionPatch(ids[2]!, { started_at: 20, resource: 'ledger', risk: null }),
      ],
      statements: [],
    });
    const found = async (filter: object): Promise<number[]> =>
      (await index.sessions({ limit: 10, ...filter })).map(({ id }) => ids.indexOf(id));
    expect(await found({})).toEqual([2, 1, 0]);
    expect(await found({ limit: 1, offset: 1 })).toEqual([1]);
    expect(await found({ principal: 'ana' })).toEqual([2, 0]);
    expect(await found({ resource: 'ledger' })).toEqual([2]);
    expect(await found({ state: 'ended', reason: 'killed' })).toEqual([1]);
    expect(await found({ riskMin: 0 })).toEqual([1, 0]);
    expect(await found({ riskMin: 2 })).toEqual([0]);
    expect(await found({ since: 11, until: 20 })).toEqual([]);
    await index.close();
  });

  test('a session goes with its statements; texts that others have stay', async () => {
    const index = await open();
    const [gone, stays] = [newId(), newId()];
    await index.write({
      sessions: [sessionPatch(gone), sessionPatch(stays)],
      statements: [
        statementRow(gone, 1, { text: 'SELECT shared' }),
        statementRow(gone, 2, { text: 'SELECT alone', tables: ['alone'] }),
        statementRow(stays, 1, { text: 'SELECT shared' }),
      ],
    });
    await index.remove(gone);
    await index.remove(newId());
    expect(await index.session(gone)).toBeNull();
    expect((await index.search({ limit: 10, text: 'select' })).map(({ session }) => session)).toEqual([
      stays,
    ]);
    expect(await seqs(index, { text: 'alone' })).toEqual([]);
    expect(await seqs(index, { table: 'alone' })).toEqual([]);
    // What is known of texts in memory must not be what is gone.
    await index.write({ sessions: [], statements: [statementRow(stays, 2, { text: 'SELECT alone' })] });
    expect(await seqs(index, { text: 'alone' })).toEqual([2]);
    await index.close();
  });

  test('holds keep a session from those that are over, and are given out once', async () => {
    const index = await open();
    const ids = [newId(), newId(), newId()];
    await index.write({
      sessions: ids.map((id, place) =>
        sessionPatch(id, {
          ended_at: 100 - place,
          state: 'ended',
          gateway: `gw-${place}`,
          resource: `r-${place}`,
        }),
      ),
      statements: [],
    });
    const over = async (...args: Parameters<RecordingIndex['endedBefore']>): Promise<number[]> =>
      (await index.endedBefore(...args)).map(({ id }) => ids.indexOf(id));
    expect(await over(100, 10)).toEqual([2, 1]);
    expect(await over(101, 2)).toEqual([2, 1]);
    expect(await over(101, 10, { gateway: 'gw-0', resources: ['r-2', 'none'] })).toEqual([2, 0]);
    expect(await index.hold(newId(), true, 'ana')).toBe(false);
    expect(await index.hold(ids[1]!, true, 'ana')).toBe(true);
    expect(await over(101, 10)).toEqual([2, 0]);
    expect(await index.session(ids[1]!)).toMatchObject({ held: 1 });
    await index.hold(ids[1]!, false, 'ben');
    const given: HoldChange[] = [];
    const failing = index.recordHolds(() => {
      throw new Error('no record');
    });
    await expect(failing).rejects.toThrow('no record');
    await index.recordHolds((changes) => void given.push(...changes));
    await index.recordHolds((changes) => void given.push(...changes));
    expect(given).toMatchObject([
      { session: ids[1], resource: 'r-1', held: 1, by: 'ana' },
      { session: ids[1], resource: 'r-1', held: 0, by: 'ben' },
    ]);
    expect(Math.abs(given[0]!.at - Date.now())).toBeLessThan(60_000);
    await index.close();
  });

  test('what a former run left open is interrupted, of its own gateway alone', async () => {
    const index = await open();
    const [mine, other, later] = [newId(1_000_000), newId(1_000_001), newId(3_000_000)];
    await index.write({
      sessions: [sessionPatch(mine), sessionPatch(other, { gateway: 'gw-2' }), sessionPatch(later)],
      statements: [],
    });
    await index.interrupt('gw-1', newId(2_000_000));
    expect(await index.session(mine)).toMatchObject({ state: 'interrupted', ended_at: 1000 });
    expect(await index.session(other)).toMatchObject({ state: 'live' });
    expect(await index.session(later)).toMatchObject({ state: 'live' });
    await index.close();
  });

  test('sizes by resource, the largest first', async () => {
    const index = await open();
    await index.write({
      sessions: [
        sessionPatch(newId(), { bytes: 5 }),
        sessionPatch(newId(), { bytes: 6 }),
        sessionPatch(newId(), { resource: 'ledger', bytes: 20 }),
      ],
      statements: [],
    });
    expect(await index.sizes()).toEqual([
      { resource: 'ledger', sessions: 1, bytes: 20 },
      { resource: 'orders', sessions: 2, bytes: 11 },
    ]);
    await index.close();
  });

  test('takes the longest texts, words and names, and what is no proper text', async () => {
    const index = await open();
    const id = newId();
    const name = `${'é'.repeat(9_000)}.tail`;
    await index.write({
      sessions: [sessionPatch(id)],
      statements: [
        statementRow(id, 1, { text: `SELECT ${'w'.repeat(20_000)}` }),
        statementRow(id, 2, { text: '語'.repeat(20_000), tables: [name] }),
        statementRow(id, 3, { text: `lone \ud800 surrogate ${'x y z '.repeat(4_000)}` }),
        statementRow(id, 4, { text: Array.from({ length: 5_000 }, (_, place) => `w${place}`).join(' ') }),
        statementRow(id, 5, { text: '' }),
      ],
    });
    expect(await seqs(index, { text: 'w'.repeat(20_000) })).toEqual([1]);
    expect(await seqs(index, { text: '語語' })).toEqual([2]);
    expect(await seqs(index, { text: 'surrogate x' })).toEqual([3]);
    expect(await seqs(index, { text: 'w2500 w17' })).toEqual([4]);
    expect((await index.search({ limit: 1, seq: 1 }))[0]!.text!.length).toBe(16 * 1024);
    await index.close();
  });
}
