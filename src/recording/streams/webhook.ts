import { createHmac } from 'node:crypto';
import { STREAM_TIMEOUT_MS } from '../limits.ts';
import type { Sink, StreamedEvent } from './stream.ts';

export interface WebhookOptions {
  readonly url: string;
  /** Signs each delivery; null for none. */
  readonly secret: Buffer | null;
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * JSON Lines by POST. A 2xx takes the delivery; anything else has it sent again.
 *
 * `Sallyport-Signature: t=SECONDS,v1=HEX` is HMAC-SHA-256 over `SECONDS.BODY`; a receiver checks it, and that the time is
 * near. `Sallyport-Delivery` is the same for the same events, so that a receiver can tell what it has already.
 */
export class WebhookSink implements Sink {
  readonly name: string;
  readonly #options: WebhookOptions;
  readonly #now: () => number;

  constructor(options: WebhookOptions, now: () => number = Date.now) {
    this.#options = options;
    this.#now = now;
    const { origin, pathname } = new URL(options.url);
    this.name = `webhook ${origin}${pathname}`;
  }

  async send(events: readonly StreamedEvent[], delivery: string): Promise<void> {
    const body = events.map(({ line }) => `${line}\n`).join('');
    await post(this.name, this.#options.url, body, {
      'content-type': 'application/x-ndjson',
      'sallyport-delivery': delivery,
      ...(this.#options.secret === null
        ? {}
        : { 'sallyport-signature': this.#sign(this.#options.secret, body) }),
      ...this.#options.headers,
    });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  #sign(secret: Buffer, body: string): string {
    const seconds = Math.floor(this.#now() / 1000);
    return `t=${seconds},v1=${createHmac('sha256', secret).update(`${seconds}.${body}`).digest('hex')}`;
  }
}

/** Rejects unless the answer is a 2xx. Redirects are not followed: the body may not go where nobody said. */
export async function post(
  name: string,
  url: string,
  body: string,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  let response: Response;
  try {
    response = await fetch(url, {
      method: 'POST',
      body,
      headers,
      redirect: 'error',
      signal: AbortSignal.timeout(STREAM_TIMEOUT_MS),
    });
  } catch (error) {
    const { cause, message } = error as Error;
    throw new Error(`${name}: ${cause instanceof Error ? cause.message : message}`);
  }
  await response.arrayBuffer();
  if (!response.ok) throw new Error(`${name} answered ${response.status}`);
}
