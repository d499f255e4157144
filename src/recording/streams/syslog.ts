import { connect as connectTcp, type Socket } from 'node:net';
import { hostname } from 'node:os';
import { connect as connectTls } from 'node:tls';
import { STREAM_TIMEOUT_MS } from '../limits.ts';
import type { Sink, StreamedEvent } from './stream.ts';

export interface SyslogOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: boolean;
  /** PEM; null for the authorities that come with Node. */
  readonly ca: string | null;
  readonly gateway: string;
}

/** Facility 13, log audit (RFC 5424, table 1). */
const FACILITY = 13;
const SEVERITY_WARNING = 4;
const SEVERITY_INFORMATIONAL = 6;

/**
 * RFC 5424 messages with octet counting (RFC 6587), over TLS (RFC 5425) or TCP. The message is the event as JSON.
 *
 * Syslog does not acknowledge: events count as delivered when the operating system took them for a connection that was
 * still open. What a receiver loses when it dies in that moment is lost; use the webhook where that matters.
 */
export class SyslogSink implements Sink {
  readonly name: string;
  readonly #options: SyslogOptions;
  readonly #host = hostname();
  #socket: Socket | null = null;

  constructor(options: SyslogOptions) {
    this.#options = options;
    this.name = `syslog ${options.host}:${options.port}`;
  }

  async send(events: readonly StreamedEvent[]): Promise<void> {
    const socket = this.#socket ?? (await this.#connect());
    const frames = events.map((event) => this.#frame(event));
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => failed(new Error('timed out')), STREAM_TIMEOUT_MS);
      const failed = (error: Error): void => {
        clearTimeout(timer);
        socket.off('close', closed);
        socket.destroy();
        this.#socket = null;
        reject(new Error(`${this.name}: ${error.message}`));
      };
      const closed = (): void => failed(new Error('the receiver closed the connection'));
      socket.once('close', closed);
      socket.write(Buffer.concat(frames), (error) => {
        if (error) {
          failed(error);
          return;
        }
        clearTimeout(timer);
        socket.off('close', closed);
        resolve();
      });
    });
  }

  close(): Promise<void> {
    this.#socket?.end();
    this.#socket = null;
    return Promise.resolve();
  }

  #frame({ event, line }: StreamedEvent): Buffer {
    const wrong =
      event.type === 'gap' ||
      (event.type === 'statement_ended' && event.status !== 'ok') ||
      (event.type === 'audit' && event.reason !== null);
    const priority = FACILITY * 8 + (wrong ? SEVERITY_WARNING : SEVERITY_INFORMATIONAL);
    const header = `<${priority}>1 ${event.at} ${word(this.#host, 255)} sallyport ${word(this.#options.gateway, 128)} ${event.type} - `;
    // RFC 5424, 6.4: a message in UTF-8 begins with the byte order mark.
    const message = Buffer.concat([
      Buffer.from(header, 'latin1'),
      Buffer.from('\ufeff', 'utf8'),
      Buffer.from(line, 'utf8'),
    ]);
    return Buffer.concat([Buffer.from(`${message.length} `, 'latin1'), message]);
  }

  #connect(): Promise<Socket> {
    const { host, port, tls, ca } = this.#options;
    return new Promise((resolve, reject) => {
      const socket: Socket = tls
        ? connectTls({ host, port, servername: host, ...(ca === null ? {} : { ca }) })
        : connectTcp({ host, port });
      const timer = setTimeout(() => socket.destroy(new Error('timed out')), STREAM_TIMEOUT_MS);
      const failed = (error: Error): void => {
        clearTimeout(timer);
        reject(new Error(`${this.name}: ${error.message}`));
      };
      socket.once('error', failed);
      socket.once(tls ? 'secureConnect' : 'connect', () => {
        clearTimeout(timer);
        socket.off('error', failed);
        socket.on('error', () => {});
        socket.on('close', () => {
          if (this.#socket === socket) this.#socket = null;
        });
        // A receiver that closes says so only to who reads.
        socket.resume();
        socket.setKeepAlive(true, 60_000);
        this.#socket = socket;
        resolve(socket);
      });
    });
  }
}

/** Printable US-ASCII without blanks, as header fields must be; `-` for nothing. */
function word(text: string, max: number): string {
  return text.replace(/[^\x21-\x7e]/g, '_').slice(0, max) || '-';
}
