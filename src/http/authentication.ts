import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Refusal } from '../../protocols/error.ts';
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

/** A hook that lets nobody through without a login. */
export function requireLogin(logins: Logins) {
  return async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    const token = bearerToken(request.headers.authorization);
    request.principal = token === null ? null : logins.principal(token);
    if (request.principal !== null) return;
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
