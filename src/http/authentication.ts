import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Refusal } from '../../protocols/error.ts';
import { Guesses, networkOf } from '../access/guesses.ts';
import type { Logins } from '../access/logins.ts';
import type { Principal } from '../access/principal.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** Who calls; set for every route that needs a login. */
    principal: Principal | null;
  }
}

/** The token of an `authorization: Bearer …` header; null where there is none. */
export function bearerToken(header: string | undefined): string | null {
  return /^Bearer ([\x21-\x7e]{1,4096})$/i.exec(header ?? '')?.[1] ?? null;
}

/** Where a call comes from; null for a Unix socket, which has no address. */
export function addressOf(request: FastifyRequest): string | null {
  return request.ip || null;
}

/** Calls without a login that one address may make in a minute, and that are on record. Ours. */
const STRANGERS_MAX = 60;

/** A hook that lets nobody through without a login. Strangers who go on and on are turned away without a record. */
export function requireLogin(logins: Logins) {
  const strangers = new Guesses(Date.now, STRANGERS_MAX);
  return async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const token = bearerToken(request.headers.authorization);
    request.principal = token === null ? null : logins.principal(token);
    if (request.principal !== null) return;
    const network = networkOf(addressOf(request) ?? 'local');
    if (strangers.isLimited(network)) {
      await reply
        .code(429)
        .send({ error: 'rate_limited', message: 'too many calls without a login; wait a minute' });
      return;
    }
    strangers.wrong(network);
    await reply
      .code(401)
      .header('www-authenticate', 'Bearer')
      .send({ error: 'login_required', message: 'log in first', hint: 'sallyport login --gateway URL' });
  };
}

/** The caller of a route behind `requireLogin`. */
export function caller(request: FastifyRequest): Principal {
  if (request.principal === null) throw new Error('a route that needs a login was reached without one');
  return request.principal;
}

const STATUS: Partial<Record<string, number>> = {
  credentials_invalid: 401,
  not_allowed: 403,
  rate_limited: 429,
  draining: 503,
};

export function statusOf(refusal: Refusal): number {
  return STATUS[refusal.code] ?? 400;
}
