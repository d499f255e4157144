import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { Log } from '../log.ts';

/**
 * Gateways behind one address ask each other about cancel requests: a client's cancel is a connection of its own, and may
 * arrive at another gateway than the one that has the session. Requests carry a time and are signed with a secret that the
 * gateways share; the cancel key within is worth nothing after its session.
 */

/** How long a peer is waited for: the client that cancels waits as well. Ours. */
const ANSWER_MS_MAX = 2_000;
/** How far two gateways' clocks may be apart, and how old a request may be. Ours. */
const AGE_MS_MAX = 30_000;
const ANSWER_BYTES_MAX = 1024;
/** Peers at once; each is asked for every cancel that is not ours. Ours. */
export const PEERS_MAX = 32;
/** The longest cancel secret: protocol 3.2 of PostgreSQL. */
const SECRET_BYTES_MAX = 256;

export const PEER_CANCEL_PATH = '/peer/cancel';

/** What one gateway asks another. */
export interface PeerCancel {
  readonly id: number;
  readonly secret: Buffer;
  /** Where the client's request came from. */
  readonly host: string;
}

interface WireCancel {
  readonly id: number;
  readonly secret: string;
  readonly host: string;
  readonly at: number;
  readonly nonce: string;
}

/** Signs and checks what peers send each other. */
export class PeerSeal {
  readonly #key: Buffer;
  readonly #now: () => number;

  /** `secret` is what the gateways share, as configured. */
  constructor(secret: string, now: () => number) {
    this.#key = createHmac('sha256', 'sallyport peers').update(secret).digest();
    this.#now = now;
  }

  seal(cancel: PeerCancel): { body: string; signature: string } {
    const wire: WireCancel = {
      id: cancel.id,
      secret: cancel.secret.toString('base64'),
      host: cancel.host,
      at: this.#now(),
      nonce: randomBytes(12).toString('base64'),
    };
    const body = JSON.stringify(wire);
    return { body, signature: this.#sign(body).toString('base64') };
  }

  /** Null for what is forged, old or malformed. */
  open(body: string, signature: string | undefined): PeerCancel | null {
    const given = Buffer.from(signature ?? '', 'base64');
    const expected = this.#sign(body);
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
    try {
      const { id, secret, host, at } = JSON.parse(body) as WireCancel;
      const bytes = Buffer.from(secret, 'base64');
      if (!Number.isInteger(id) || typeof host !== 'string' || bytes.length > SECRET_BYTES_MAX) return null;
      return Math.abs(this.#now() - at) <= AGE_MS_MAX ? { id, secret: bytes, host } : null;
    } catch {
      return null;
    }
  }

  #sign(body: string): Buffer {
    return createHmac('sha256', this.#key).update(body).digest();
  }
}

/** The other gateways behind our address. */
export class Peers {
  readonly #urls: readonly URL[];
  readonly #seal: PeerSeal;
  readonly #ca: Buffer | null;
  readonly #log: Log;

  constructor(urls: readonly string[], seal: PeerSeal, ca: Buffer | null, log: Log) {
    this.#urls = urls.slice(0, PEERS_MAX).map((url) => new URL(PEER_CANCEL_PATH, url));
    this.#seal = seal;
    this.#ca = ca;
    this.#log = log;
  }

  /** Asks all of them at once; true as soon as one has cancelled. A peer that does not answer counts as no. */
  async cancel(cancel: PeerCancel): Promise<boolean> {
    const asked = this.#urls.map(async (url) => {
      try {
        return await this.#ask(url, cancel);
      } catch (error) {
        this.#log.warn(
          { peer: url.host, error: (error as Error).message },
          'peer did not answer about a cancel',
        );
        return false;
      }
    });
    const yes = asked.map((answer) =>
      answer.then((found) => (found ? true : Promise.reject(new Error('not there')))),
    );
    return Promise.any(yes).catch(() => false);
  }

  #ask(url: URL, cancel: PeerCancel): Promise<boolean> {
    const { body, signature } = this.#seal.seal(cancel);
    const request = url.protocol === 'https:' ? requestHttps : requestHttp;
    return new Promise((resolve, reject) => {
      const outgoing = request(
        url,
        {
          method: 'POST',
          ...(this.#ca === null ? {} : { ca: this.#ca }),
          headers: {
            'content-type': 'text/plain',
            'content-length': Buffer.byteLength(body),
            'sallyport-signature': signature,
          },
        },
        (incoming) => {
          let text = '';
          incoming.on('data', (chunk: Buffer) => {
            text += chunk.toString('utf8');
            if (text.length > ANSWER_BYTES_MAX) outgoing.destroy(new Error('the answer is too long'));
          });
          incoming.on('end', () => {
            if (incoming.statusCode === 200) resolve(text === 'cancelled');
            else reject(new Error(`it answered ${incoming.statusCode}`));
          });
          incoming.on('error', reject);
        },
      );
      outgoing.setTimeout(ANSWER_MS_MAX, () => outgoing.destroy(new Error('no answer in time')));
      outgoing.on('error', reject);
      outgoing.end(body);
    });
  }
}
