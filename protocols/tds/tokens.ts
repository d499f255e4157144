import type { Cursor } from './cursor.ts';

/**
 * Tokens of responses: their ids, the bits of DONE, and the body that ERROR and INFO share (MS-TDS 2.2.7).
 */

export const Token = {
  offset: 0x78,
  returnStatus: 0x79,
  columnMetadata: 0x81,
  columnSources: 0xa2,
  dataClassification: 0xa3,
  tableName: 0xa4,
  columnInfo: 0xa5,
  order: 0xa9,
  error: 0xaa,
  info: 0xab,
  returnValue: 0xac,
  featureAcknowledgement: 0xae,
  row: 0xd1,
  bitmapRow: 0xd2,
  environmentChange: 0xe3,
  sessionState: 0xe4,
  sspi: 0xed,
  federatedInfo: 0xee,
  done: 0xfd,
  doneProcedure: 0xfe,
  doneInProcedure: 0xff,
} as const;

/** Status bits of the DONE tokens (MS-TDS 2.2.7.6). */
export const DoneStatus = {
  more: 0x0001,
  error: 0x0002,
  inTransaction: 0x0004,
  count: 0x0010,
  attention: 0x0020,
  /** This DONEPROC ends one of several calls of one message, and not the last. */
  callInBatch: 0x0080,
  serverError: 0x0100,
} as const;

export interface Done {
  token: number;
  status: number;
  command: number;
  /** Valid with the `count` bit. A number up to 2^53, the nearest double beyond. */
  count: number;
  /** Rows since the last DONE; null where no result was announced. */
  rows: number | null;
}

export interface ServerMessage {
  readonly number: number;
  readonly state: number;
  readonly class: number;
  readonly text: string;
  readonly procedure: string;
  readonly line: number;
}

/** The body of an ERROR or INFO token. */
export function readMessage(cursor: Cursor, wide: boolean): ServerMessage {
  const number = cursor.uint32() | 0;
  const state = cursor.uint8();
  const severity = cursor.uint8();
  const text = cursor.longText();
  cursor.skipShortText();
  const procedure = cursor.shortText();
  const line = wide ? cursor.uint32() : cursor.uint16();
  return { number, state, class: severity, text, procedure, line };
}
