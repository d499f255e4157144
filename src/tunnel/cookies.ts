/** Cookies that are kept of one gateway, and how long one may be. Ours. */
const COOKIES_MAX = 16;
const COOKIE_BYTES_MAX = 4096;

/**
 * The cookies of whatever balances between several gateways. Sallyport sets none; a balancer that keeps a person on one
 * gateway does so by a cookie, and everything that belongs to one tunnel has to bring it.
 * One origin.
 */
export class Cookies {
  readonly #values = new Map<string, string>();

  /** `text` is what `text` was of an earlier one. */
  constructor(text = '') {
    this.take(text === '' ? [] : text.split('; '));
  }

  /** As a `cookie` header has them; empty where there are none. */
  get text(): string {
    return [...this.#values].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  /** Takes the `set-cookie` headers of an answer. */
  take(headers: readonly string[] | undefined): void {
    for (const header of headers ?? []) {
      const [pair = '', ...attributes] = header.split(';');
      const equals = pair.indexOf('=');
      const name = pair.slice(0, equals).trim();
      if (equals < 1 || pair.length > COOKIE_BYTES_MAX || /[^\x21-\x7e]/.test(name)) continue;
      const isGone = attributes.some((attribute) => /^\s*max-age\s*=\s*(0|-\d+)\s*$/i.test(attribute));
      this.#values.delete(name);
      if (isGone || this.#values.size >= COOKIES_MAX) continue;
      this.#values.set(name, pair.slice(equals + 1).trim());
    }
  }

  /** For a request's headers: `cookie`, or nothing. */
  headers(): { cookie?: string } {
    return this.#values.size === 0 ? {} : { cookie: this.text };
  }
}
