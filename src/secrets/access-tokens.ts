import type { HttpClient, HttpRequest, HttpResponse } from './http.ts';

export interface TokenGrant {
  readonly token: string;
  readonly seconds: number;
}

/** A token is not used any more this long before its end. */
const MARGIN_MS = 60_000;

/** An OAuth access token that is kept while it is good, and fetched once for all who wait for it. */
export class AccessTokens {
  readonly #now: () => number;
  readonly #signIn: (signal: AbortSignal) => Promise<TokenGrant>;
  #grant: { readonly token: string; readonly until: number } | null = null;
  #pending: Promise<string> | null = null;

  constructor(now: () => number, signIn: (signal: AbortSignal) => Promise<TokenGrant>) {
    this.#now = now;
    this.#signIn = signIn;
  }

  async token(signal: AbortSignal): Promise<string> {
    if (this.#grant && this.#grant.until > this.#now()) return this.#grant.token;
    this.#pending ??= this.#renew(signal).finally(() => {
      this.#pending = null;
    });
    return this.#pending;
  }

  /** A request with the token; with a new one, once, when the server does not take the first. */
  async authorized(client: HttpClient, request: HttpRequest, signal: AbortSignal): Promise<HttpResponse> {
    const first = await this.token(signal);
    const response = await client.send(withBearer(request, first), signal);
    if (response.status !== 401) return response;
    if (this.#grant?.token === first) this.#grant = null;
    return client.send(withBearer(request, await this.token(signal)), signal);
  }

  async #renew(signal: AbortSignal): Promise<string> {
    const { token, seconds } = await this.#signIn(signal);
    this.#grant = { token, until: this.#now() + seconds * 1000 - MARGIN_MS };
    return token;
  }
}

function withBearer(request: HttpRequest, token: string): HttpRequest {
  return { ...request, headers: { ...request.headers, authorization: `Bearer ${token}` } };
}
