import { Reader, Writer } from '../bytes.ts';
import { type Fault, ProtocolError } from '../error.ts';

/**
 * PRELOGIN (MS-TDS 2.2.6.5): a table of options `token(1) offset(2) length(2)`, big-endian, ended by 0xFF, and their
 * data behind it. Offsets count from the first byte of the payload.
 */

const Option = {
  version: 0x00,
  encryption: 0x01,
  instance: 0x02,
  thread: 0x03,
  mars: 0x04,
  fedAuthRequired: 0x06,
  terminator: 0xff,
} as const;

/** Values of the ENCRYPTION option, flag bits taken off. */
export const Encryption = { off: 0, on: 1, notSupported: 2, required: 3, strict: 4 } as const;

/** The flag bits above are client certificate, channel-binding token and an extension (MS-TDS 2.2.6.5). */
const ENCRYPTION_VALUE_MASK = 0x1f;

/** What stands in a PRELOGIN of either side. */
export interface Prelogin {
  /** Six bytes: major, minor, build (big-endian), sub-build. Null where the option is missing or too short. */
  readonly version: Buffer | null;
  readonly encryption: number;
  readonly mars: boolean;
  /** The FEDAUTHREQUIRED value; null where the option is absent. */
  readonly fedAuthRequired: number | null;
}

/** Reads a PRELOGIN payload. Throws `malformed` when an option lies outside it or the table has no end. */
export function parsePrelogin(payload: Buffer, fault: Fault): Prelogin {
  const reader = new Reader(payload, fault);
  let version: Buffer | null = null;
  let encryption: number = Encryption.notSupported;
  let mars = false;
  let fedAuthRequired: number | null = null;
  for (;;) {
    const token = reader.uint8('PRELOGIN option');
    if (token === Option.terminator) break;
    const offset = reader.uint16be('PRELOGIN option offset');
    const length = reader.uint16be('PRELOGIN option length');
    if (offset + length > payload.length) {
      throw new ProtocolError('malformed', fault, `PRELOGIN option ${token} lies outside the message`);
    }
    const data = payload.subarray(offset, offset + length);
    if (token === Option.version && length >= 6) version = Buffer.from(data.subarray(0, 6));
    else if (token === Option.encryption && length >= 1) encryption = data[0]! & ENCRYPTION_VALUE_MASK;
    else if (token === Option.mars && length >= 1) mars = data[0] === 1;
    else if (token === Option.fedAuthRequired && length >= 1) fedAuthRequired = data[0]!;
  }
  return { version, encryption, mars, fedAuthRequired };
}

/**
 * The server's answer to a client. jTDS reads the options by position and their data in sequence: VERSION, ENCRYPTION,
 * INSTOPT, THREADID, MARS, in this order and without gaps. `fedAuthRequired` null leaves that option out.
 */
export function buildPreloginAnswer(answer: {
  version: Buffer;
  encryption: number;
  mars: boolean;
  fedAuthRequired: number | null;
}): Buffer {
  const options: [number, Buffer][] = [
    [Option.version, answer.version],
    [Option.encryption, Buffer.from([answer.encryption])],
    [Option.instance, Buffer.from([0])],
    [Option.thread, Buffer.alloc(0)],
    [Option.mars, Buffer.from([answer.mars ? 1 : 0])],
  ];
  if (answer.fedAuthRequired !== null) {
    options.push([Option.fedAuthRequired, Buffer.from([answer.fedAuthRequired])]);
  }
  return build(options);
}

/**
 * What we ask of a server. The instance is left open (a wrong name is refused), and FEDAUTHREQUIRED is always sent, as
 * Microsoft's own client does: whether a token will be used is known only when the client has said who it is.
 */
export function buildPrelogin(encryption: number, mars: boolean): Buffer {
  return build([
    // Ours: a version of a client library that any server takes.
    [Option.version, Buffer.from([0x10, 0, 0, 0, 0, 0])],
    [Option.encryption, Buffer.from([encryption])],
    [Option.instance, Buffer.from([0])],
    [Option.thread, Buffer.alloc(4)],
    [Option.mars, Buffer.from([mars ? 1 : 0])],
    [Option.fedAuthRequired, Buffer.from([1])],
  ]);
}

function build(options: readonly [number, Buffer][]): Buffer {
  const writer = new Writer();
  let offset = options.length * 5 + 1;
  for (const [token, data] of options) {
    writer.uint8(token).uint16be(offset).uint16be(data.length);
    offset += data.length;
  }
  writer.uint8(Option.terminator);
  for (const [, data] of options) writer.append(data);
  return writer.take();
}

/** `16.0.1000` from the six bytes of the VERSION option or the last four of LOGINACK. */
export function versionText(version: Buffer): string {
  return `${version[0]}.${version[1]}.${version.readUInt16BE(2)}`;
}
