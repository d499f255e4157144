import type { Parameter } from '../statement.ts';
import type { ValueCapture, ValueWalker } from './extents.ts';
import { Extent, TypeId, type TypeInfo, typeName } from './types.ts';
import { decodeValue } from './values.ts';

/** What was captured of a value, as the record shows it. */

/** A length of zero is NULL where the length is one byte, and for variants. */
export function isNullValue(info: TypeInfo, walker: ValueWalker, capture: ValueCapture): boolean {
  if (walker.isNull) return true;
  return (
    capture.total === 0 &&
    (info.extent === Extent.byte || info.id === TypeId.variant || info.id === TypeId.null)
  );
}

/** A value as a parameter of the record. */
export function describeValue(
  name: string | null,
  info: TypeInfo,
  isNull: boolean,
  encrypted: boolean,
  capture: ValueCapture,
): Parameter {
  const type = typeName(info);
  if (isNull) return { name, type, value: null };
  if (encrypted) return { name, type, value: { encrypted: true, bytes: capture.total } };
  const value = decodeValue(info, capture.bytes, capture.cut);
  if (!capture.cut) return { name, type, value };
  const sha256 = capture.digest();
  return { name, type, value, bytes: capture.total, ...(sha256 === null ? {} : { sha256 }) };
}
