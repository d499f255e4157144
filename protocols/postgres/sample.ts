import type { Conversation } from './conversation.ts';
import { utf8Cut } from './encoding.ts';
import { int32, uint16 } from './messages.ts';
import { SAMPLE_VALUE_BYTES_MAX } from './stream-limits.ts';
import { binaryText } from './values.ts';

/** Adds a DataRow to the sample of the result under way: each value as text, cut where it is long, NULL as null. */
export function readRow(conversation: Conversation, bytes: Buffer, start: number, end: number): void {
  if (end - start < 2) return;
  const { decode } = conversation;
  const { types, formats } = conversation.columnForms();
  const row: (string | null)[] = [];
  const count = uint16(bytes, start);
  let at = start + 2;
  for (let index = 0; index < count && at + 4 <= end; index += 1) {
    const length = int32(bytes, at);
    at += 4;
    if (length < 0) {
      row.push(null);
      continue;
    }
    if (length > end - at) return;
    const format = formats === null ? 0 : (formats[formats.length === 1 ? 0 : index] ?? 0);
    if (format === 0) {
      row.push(decode(bytes, at, utf8Cut(bytes, at, at + length, SAMPLE_VALUE_BYTES_MAX)));
    } else {
      const text = binaryText(types?.[index] ?? 0, bytes, at, at + length, decode);
      row.push(text.length > SAMPLE_VALUE_BYTES_MAX ? text.slice(0, SAMPLE_VALUE_BYTES_MAX) : text);
    }
    at += length;
  }
  conversation.sample ??= [];
  conversation.sample.push(row);
}
