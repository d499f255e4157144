/**
 * The functions that clients call by FunctionCall: libpq's large-object interface. OIDs from `pg_proc.dat`, which are
 * the same in every server; argument types by their OIDs.
 */
export interface KnownFunction {
  readonly name: string;
  readonly arguments: readonly number[];
}

const OID = 26;
const INT4 = 23;
const INT8 = 20;
const BYTEA = 17;
const TEXT = 25;

export const FUNCTIONS: ReadonlyMap<number, KnownFunction> = new Map([
  [715, { name: 'lo_create', arguments: [OID] }],
  [764, { name: 'lo_import', arguments: [TEXT] }],
  [765, { name: 'lo_export', arguments: [OID, TEXT] }],
  [767, { name: 'lo_import', arguments: [TEXT, OID] }],
  [952, { name: 'lo_open', arguments: [OID, INT4] }],
  [953, { name: 'lo_close', arguments: [INT4] }],
  [954, { name: 'loread', arguments: [INT4, INT4] }],
  [955, { name: 'lowrite', arguments: [INT4, BYTEA] }],
  [956, { name: 'lo_lseek', arguments: [INT4, INT4, INT4] }],
  [957, { name: 'lo_creat', arguments: [INT4] }],
  [958, { name: 'lo_tell', arguments: [INT4] }],
  [964, { name: 'lo_unlink', arguments: [OID] }],
  [1004, { name: 'lo_truncate', arguments: [INT4, INT4] }],
  [3170, { name: 'lo_lseek64', arguments: [INT4, INT8, INT4] }],
  [3171, { name: 'lo_tell64', arguments: [INT4] }],
  [3172, { name: 'lo_truncate64', arguments: [INT4, INT8] }],
]);
