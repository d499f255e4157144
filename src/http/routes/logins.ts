import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { Refusal } from '../../../protocols/error.ts';
import { Guesses, networkOf } from '../../access/guesses.ts';
import type { Principal } from '../../access/principal.ts';
import type { ApiPorts } from '../api-ports.ts';
import { addressOf, bearerToken } from '../authentication.ts';
import * as contract from '../contract/api.ts';
import { failures, timeText } from '../failures.ts';
import { open } from '../summaries.ts';

/** Sign-ins with the provider that one address may begin in a minute: each asks the provider, and takes a place. Ours. */
const STARTS_MAX = 30;

/** Where those come from who come by a Unix socket. */
const LOCAL = 'local';

/** Logging in and out: the routes that need no login. */
export function addLogins(plain: FastifyInstance, { access }: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { logins, oidc } = access;
  const starts = new Guesses(Date.now, STARTS_MAX);
  const pace = (address: string | null): void => {
    const network = networkOf(address ?? LOCAL);
    if (starts.isLimited(network))
      throw new Refusal('rate_limited', 'too many sign-ins begin; wait a minute');
    starts.wrong(network);
  };
  const addressText = (request: FastifyRequest): string => addressOf(request) ?? LOCAL;
  const answer = (principal: Principal, address: string): contract.LoginAnswer => {
    const login = logins.issue(principal, address);
    return {
      token: login.token,
      principal: principal.name,
      roles: [...principal.roles],
      expires_at: timeText(login.expiresAt),
    };
  };
  server.get(
    '/login',
    { schema: { response: { 200: contract.loginMethods }, ...open('How one may log in.') } },
    async () => ({
      password: Object.keys(access.config.users).length > 0,
      oidc: oidc.enabled,
    }),
  );
  server.post(
    '/login',
    {
      schema: {
        body: contract.loginRequest,
        response: { 200: contract.loginAnswer, ...failures },
        ...open('Log in with a password.'),
      },
    },
    async (request) => {
      const login = await logins.withPassword(request.body.user, request.body.password, addressText(request));
      const { principal, token, expiresAt } = login;
      return {
        token,
        principal: principal.name,
        roles: [...principal.roles],
        expires_at: timeText(expiresAt),
      };
    },
  );
  server.post(
    '/login/device',
    {
      schema: {
        response: { 200: contract.deviceStart, ...failures },
        ...open('Begin a sign-in with the provider by a code to type elsewhere.'),
      },
    },
    async (request) => {
      pace(addressOf(request));
      const { flow, response } = await oidc.startDevice();
      return {
        flow,
        verification_uri: response.verification_uri,
        verification_uri_complete: response.verification_uri_complete ?? null,
        user_code: response.user_code,
        expires_at: timeText(Date.now() + response.expires_in * 1000),
        interval_seconds: response.interval ?? 5,
      };
    },
  );
  server.post(
    '/login/device/:flow',
    {
      schema: {
        params: z.object({ flow: z.string().max(100) }),
        response: { 200: z.union([contract.loginAnswer, contract.pending]), ...failures },
        ...open('Ask whether the person has finished.'),
      },
    },
    async (request) => {
      const principal = await oidc.pollDevice(request.params.flow);
      return principal === null ? { pending: true as const } : answer(principal, addressText(request));
    },
  );
  server.post(
    '/login/code',
    {
      schema: {
        body: contract.codeStartRequest,
        response: { 200: contract.codeStart, ...failures },
        ...open('Begin a sign-in with the provider by browser.'),
      },
    },
    async (request) => {
      pace(addressOf(request));
      const { flow, url } = await oidc.startCode(request.body.redirect_uri);
      return { flow, authorization_url: url };
    },
  );
  server.post(
    '/login/code/:flow',
    {
      schema: {
        params: z.object({ flow: z.string().max(100) }),
        body: contract.codeFinishRequest,
        response: { 200: contract.loginAnswer, ...failures },
        ...open('End a sign-in by browser.'),
      },
    },
    async (request) =>
      answer(await oidc.finishCode(request.params.flow, request.body.callback_url), addressText(request)),
  );
  server.post(
    '/logout',
    { schema: { response: { 204: z.null() }, ...open('End the login that the request carries.') } },
    async (request, reply) => {
      const token = bearerToken(request.headers.authorization);
      if (token !== null) logins.logout(token, addressText(request));
      return reply.code(204).send(null);
    },
  );
}
