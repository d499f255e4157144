import { Writer } from '../bytes.ts';
import { ProtocolError } from '../error.ts';

/** FeatureExt of LOGIN7 (MS-TDS 2.2.6.4): `{ id(1) length(4, little-endian) data }` until 0xFF. */

export const Feature = {
  sessionRecovery: 0x01,
  fedAuth: 0x02,
  columnEncryption: 0x04,
  globalTransactions: 0x05,
  azureSqlSupport: 0x08,
  dataClassification: 0x09,
  utf8Support: 0x0a,
  jsonSupport: 0x0d,
  vectorSupport: 0x0e,
  userAgent: 0x10,
} as const;

export interface FeatureRequest {
  readonly id: number;
  readonly data: Buffer;
}

const TERMINATOR = 0xff;

/**
 * What passes. The rest is left out: session recovery (a reconnect is a new session here, and its state would be a
 * promise that nobody keeps), FEDAUTH (identity), Azure's DNS cache and enhanced routing (the client would go past us),
 * and whatever is not known.
 */
const PASSED: readonly number[] = [
  Feature.columnEncryption,
  Feature.globalTransactions,
  Feature.azureSqlSupport,
  Feature.dataClassification,
  Feature.utf8Support,
  Feature.jsonSupport,
  Feature.vectorSupport,
  Feature.userAgent,
];

/** Reads a client's list from `payload` at `offset`. Throws `malformed` when it runs past the payload. */
export function parseFeatures(payload: Buffer, offset: number): FeatureRequest[] {
  const features: FeatureRequest[] = [];
  let position = offset;
  for (;;) {
    if (position >= payload.length) throw malformed('has no end');
    const id = payload[position]!;
    if (id === TERMINATOR) return features;
    if (position + 5 > payload.length) throw malformed('is cut');
    const length = payload.readUInt32LE(position + 1);
    position += 5;
    if (length > payload.length - position) throw malformed(`has a feature of ${length} bytes`);
    features.push({ id, data: payload.subarray(position, position + length) });
    position += length;
  }
}

/** The features of a client that its server is asked for, in the client's order. */
export function passedFeatures(features: readonly FeatureRequest[]): FeatureRequest[] {
  return features.filter(({ id }) => PASSED.includes(id));
}

/** The block as it stands in LOGIN7. It may hold an access token: wipe it after use. */
export function buildFeatures(features: readonly FeatureRequest[]): Buffer {
  const writer = new Writer(features.reduce((sum, { data }) => sum + data.length + 5, 1));
  for (const { id, data } of features) writer.uint8(id).uint32le(data.length).append(data);
  return writer.uint8(TERMINATOR).take();
}

/** How a client wants to sign in with Entra: it has a token, or it wants to be told where to get one (ADAL). */
export type FedAuthRequest =
  | { readonly library: 'token'; readonly token: Buffer }
  | { readonly library: 'adal' }
  | { readonly library: 'unknown' };

/** Reads the data of a FEDAUTH feature request. `token` is UTF-16LE, a view. Throws `malformed`. */
export function parseFedAuth(data: Buffer): FedAuthRequest {
  if (data.length < 1) throw malformed('has an empty FEDAUTH');
  const library = data[0]! >> 1;
  if (library === 2) return { library: 'adal' };
  if (library !== 1) return { library: 'unknown' };
  if (data.length < 5) throw malformed('has a FEDAUTH without token');
  const length = data.readUInt32LE(1);
  if (length > data.length - 5) throw malformed('has a FEDAUTH token that is cut');
  return { library: 'token', token: data.subarray(5, 5 + length) };
}

/**
 * FEDAUTH with an access token (library 1, security token). `echo` repeats what the server's PRELOGIN said of
 * FEDAUTHREQUIRED; `token` is UTF-16LE.
 */
export function buildFedAuth(token: Buffer, echo: boolean): FeatureRequest {
  const data = new Writer(token.length + 5)
    .uint8((1 << 1) | (echo ? 1 : 0))
    .uint32le(token.length)
    .append(token)
    .take();
  return { id: Feature.fedAuth, data };
}

function malformed(what: string): ProtocolError {
  return new ProtocolError('malformed', 'client', `FeatureExt of LOGIN7 ${what}`);
}
