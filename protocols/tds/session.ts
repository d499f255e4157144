import type { TdsSettings } from '../engine.ts';

/**
 * What the sign-in hands to the streaming half: all that the login exchange settled and that the bytes after it do not
 * say again.
 */
export interface SessionFacts {
  readonly settings: TdsSettings;
  /** The version of the server's LOGINACK, which both legs speak. Token widths follow from it. */
  readonly version: TdsVersion;
  /** Both sides said MARS in PRELOGIN: every packet travels in an SMP frame from the first byte after the login response. */
  readonly mars: boolean;
  /** Bytes of a full packet, header included, as the last ENVCHANGE 4 of the login response set it (4096 without one). */
  readonly packetBytes: number;
  /** The database after sign-in (ENVCHANGE 1), where a reset connection returns to; null where the server named none. */
  readonly database: string | null;
  /** The database's collation (ENVCHANGE 7), five bytes; null where the server named none. */
  readonly collation: Buffer | null;
  /** The transaction that the login response left open (ENVCHANGE 8), which no driver is known to ask for. */
  readonly inTransaction: boolean;
  /** The account that was signed in to the server: it must not appear in what we tell the client. */
  readonly account: string;
  /** What our own ERROR tokens name as the server: the resource's name, never an address. */
  readonly serverName: string;
  /** The server's session id, as in the headers of its packets. */
  readonly serverProcess: number;
  /** Features that the server acknowledged to this client (FEATUREEXTACK as the client got it). */
  readonly features: SessionFeatures;
}

/** Acknowledged features that change how later tokens are laid out (MS-TDS 2.2.7.11). */
export interface SessionFeatures {
  /** COLUMNENCRYPTION: COLMETADATA has a table of keys. */
  readonly columnEncryption: boolean;
  /** DATACLASSIFICATION's version, when acknowledged and enabled: its token may follow COLMETADATA. */
  readonly dataClassification: 0 | 1 | 2;
}

/** In ascending order. On the wire they are numbers that do not sort: TDS 8.0 is the smallest. */
export const TDS_VERSIONS = ['7.0', '7.1', '7.2', '7.3A', '7.3B', '7.4', '8.0'] as const;
export type TdsVersion = (typeof TDS_VERSIONS)[number];

/** Whether `version` is `least` or a later one. */
export function versionAtLeast(version: TdsVersion, least: TdsVersion): boolean {
  return TDS_VERSIONS.indexOf(version) >= TDS_VERSIONS.indexOf(least);
}

/**
 * The version that a LOGIN7 or LOGINACK field means, given as the number whose hexadecimal digits are those of MS-TDS
 * (`0x74000004`): little-endian in LOGIN7, big-endian in LOGINACK. Null for none that we speak.
 */
export function versionOf(field: number): TdsVersion | null {
  const value = field >>> 0;
  if (value === 0x0800_0000) return '8.0';
  switch (value >>> 24) {
    case 0x70:
      return '7.0';
    case 0x71:
      return '7.1';
    case 0x72:
      return '7.2';
    case 0x73:
      return ((value >>> 16) & 0xff) >= 0x0b ? '7.3B' : '7.3A';
    case 0x74:
      return '7.4';
    default:
      return null;
  }
}
