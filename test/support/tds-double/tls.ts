import { constants } from 'node:crypto';
import { Duplex } from 'node:stream';
import * as tls from 'node:tls';
import type { StreamReader } from './wire.ts';

/** TLS of the test double: inside PRELOGIN, for LOGIN7 only, or first of all (TDS 8.0). */

export interface DoubleCertificate {
  readonly chain: string;
  readonly key: string;
}

/** How the first server flight is cut into messages: `split` is wrong on purpose. */
export type FlightForm = 'one-message' | 'split';

/** The stream between TLS and the socket while TLS travels in packets of type 0x12. */
class Wrapped extends Duplex {
  readonly #form: FlightForm;
  readonly #send: (bytes: Buffer) => void;
  #pending: Buffer[] = [];
  #bare = false;
  #sawChange = false;
  #flushing = false;

  constructor(send: (bytes: Buffer) => void, form: FlightForm) {
    super();
    this.#send = send;
    this.#form = form;
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    if (this.#bare) {
      this.#send(chunk);
      done();
      return;
    }
    this.#pending.push(chunk);
    if (!this.#flushing) {
      this.#flushing = true;
      setImmediate(() => this.#flush());
    }
    done();
  }

  #flush(): void {
    this.#flushing = false;
    const flight = Buffer.concat(this.#pending);
    this.#pending = [];
    const half = Math.ceil(flight.length / 2);
    const messages =
      this.#form === 'split' && flight.length > 200 ? [0, half, flight.length] : [0, flight.length];
    for (let index = 0; index + 1 < messages.length; index += 1) {
      this.#sendMessage(flight.subarray(messages[index], messages[index + 1]));
    }
    // ChangeCipherSpec and the Finished behind it are the last that is wrapped.
    for (let at = 0; at + 5 <= flight.length; at += 5 + flight.readUInt16BE(at + 3)) {
      if (flight[at] === 0x14) this.#sawChange = true;
      else if (flight[at] === 0x16 && this.#sawChange) this.#bare = true;
    }
  }

  #sendMessage(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += 4088) {
      const part = bytes.subarray(at, at + 4088);
      const header = Buffer.from([0x12, at + 4088 >= bytes.length ? 1 : 0, 0, 0, 0, 0, 0, 0]);
      header.writeUInt16BE(part.length + 8, 2);
      this.#send(Buffer.concat([header, part]));
    }
  }
}

/** Does the handshake of a server inside PRELOGIN and leaves `reader` on the decrypted stream. */
export async function wrappedTls(
  reader: StreamReader,
  certificate: DoubleCertificate,
  options: { form?: FlightForm; maxVersion?: 'TLSv1.2' | 'TLSv1.3' },
): Promise<WrappedTls> {
  const raw = reader.stream;
  const wrapped = new Wrapped((bytes) => raw.write(bytes), options.form ?? 'one-message');
  const secured = new tls.TLSSocket(wrapped as never, {
    isServer: true,
    secureContext: tls.createSecureContext({
      cert: certificate.chain,
      key: certificate.key,
      maxVersion: options.maxVersion ?? 'TLSv1.2',
      secureOptions: constants.SSL_OP_NO_TICKET,
    }),
  });
  const secure = new Promise<void>((resolve, reject) => {
    secured.once('secure', resolve);
    secured.once('error', reject);
  });
  secure.catch(() => {});
  secured.on('error', () => raw.destroy());
  for (;;) {
    const first = await reader.peek(1);
    if (first === null) throw new Error('the client left during TLS');
    if (first[0] !== 0x12) break;
    const packet = await reader.packet();
    if (packet === null) throw new Error('the client left during TLS');
    wrapped.push(packet.payload);
  }
  await secure;
  /** One TLS record of the client, if that is what comes next. */
  const pumpRecord = async (): Promise<boolean> => {
    const header = await reader.peek(5);
    if (header === null || header[0]! < 0x14 || header[0]! > 0x17) return false;
    const record = await reader.read(5 + header.readUInt16BE(3));
    if (record === null) return false;
    wrapped.push(record);
    return true;
  };
  return { secured, pumpRecord, end: () => wrapped.push(null) };
}

export interface WrappedTls {
  readonly secured: tls.TLSSocket;
  /** Feeds the next TLS record; false when no record follows. */
  pumpRecord(): Promise<boolean>;
  end(): void;
}

/** TLS at once, on the bare stream. */
export async function strictTls(
  reader: StreamReader,
  certificate: DoubleCertificate,
): Promise<tls.TLSSocket> {
  const raw = reader.stream;
  const pending = reader.detach();
  if (pending.length > 0) raw.unshift(pending);
  const secured = new tls.TLSSocket(raw as never, {
    isServer: true,
    ALPNProtocols: ['tds/8.0'],
    secureContext: tls.createSecureContext({ cert: certificate.chain, key: certificate.key }),
  });
  secured.on('error', () => raw.destroy());
  await new Promise<void>((resolve, reject) => {
    secured.once('secure', () => resolve());
    secured.once('error', reject);
    secured.once('close', () => reject(new Error('the client left during TLS')));
  });
  reader.attach(secured);
  return secured;
}
