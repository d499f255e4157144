import swagger from '@fastify/swagger';
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify';
import {
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod';
import { z } from 'zod';
import { Refusal } from '../../protocols/error.ts';
import type { Statement } from '../../protocols/statement.ts';
import type { AccessControl } from '../access/access-control.ts';
import type { Principal } from '../access/principal.ts';
import { decide } from '../access/rules.ts';
import type { Gateway } from '../gateway/gateway.ts';
import type { SessionSummary } from '../gateway/summary.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { StoredLaunch } from '../store/state.ts';
import { version } from '../version.ts';
import { bearerToken, caller, requireLogin, statusOf } from './authentication.ts';
import * as contract from './contract/api.ts';

/** Launches shown at once. */
const LAUNCHES_MAX = 1_000;
/** Event streams open at once in one process. */
const STREAMS_MAX = 200;
/** Events that a slow reader may be behind; beyond, its stream is ended. */
const STREAM_BYTES_MAX = 4 * 1024 * 1024;
const STREAM_PING_MS = 15_000;

export interface ApiPorts {
  readonly gateway: Gateway;
  readonly access: AccessControl;
  readonly audit: (event: AuditEvent) => void;
  /** A statement as it may be shown: masked as it is recorded. */
  readonly present: (statement: Statement, session: SessionSummary) => Record<string, unknown>;
  /** Public keys that sign recordings, by id, PEM. */
  readonly signingKeys: () => Readonly<Record<string, string>>;
}

/** Adds `/api/v1` to the server: logins, resources, launches, sessions, and the OpenAPI document of it all. */
export async function addApi(root: FastifyInstance, ports: ApiPorts): Promise<void> {
  const behindLogin: FastifyPluginAsync = async (inner) => {
    inner.addHook('onRequest', requireLogin(ports.access.logins));
    addSelf(inner, ports);
    addLaunches(inner, ports);
    addSessions(inner, ports);
  };
  const api: FastifyPluginAsync = async (plain) => {
    const server = plain.withTypeProvider<ZodTypeProvider>();
    server.setValidatorCompiler(validatorCompiler);
    server.setSerializerCompiler(serializerCompiler);
    server.decorateRequest('principal', null);
    await server.register(swagger, {
      openapi: {
        info: { title: 'Sallyport', version, description: 'Launches, sessions and resources of a gateway.' },
        components: { securitySchemes: { login: { type: 'http', scheme: 'bearer' } } },
      },
      transform: jsonSchemaTransform,
    });
    server.setErrorHandler((error, _request, reply) => {
      if (error instanceof Refusal)
        return reply
          .code(statusOf(error))
          .send({ error: error.code, message: error.message, hint: error.hint });
      const { statusCode, validation } = error as { statusCode?: number; validation?: unknown };
      if (validation !== undefined || (statusCode !== undefined && statusCode < 500))
        return reply
          .code(statusCode ?? 400)
          .send({ error: 'bad_request', message: (error as Error).message });
      return reply.code(500).send({ error: 'internal', message: 'something went wrong in the gateway' });
    });
    server.addHook('onResponse', async (request, reply) => audit(ports, request, reply));
    server.get('/openapi.json', { schema: { hide: true } }, async () => server.swagger());
    addLogins(plain, ports);
    await server.register(behindLogin);
  };
  await root.register(api, { prefix: '/api/v1' });
}

/** Every call is on record, with who and what came of it; reading its own document and logins have events of their own. */
function audit(ports: ApiPorts, request: FastifyRequest, reply: FastifyReply): void {
  ports.audit({
    action: 'api_call',
    principal: request.principal?.name ?? null,
    resource: null,
    clientAddress: request.ip,
    reason: null,
    detail: { method: request.method, route: request.routeOptions.url ?? 'none', status: reply.statusCode },
  });
}

function addLogins(plain: FastifyInstance, { access }: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { logins, oidc } = access;
  const answer = (principal: Principal, address: string): contract.LoginAnswer => {
    const login = logins.issue(principal, address);
    return {
      token: login.token,
      principal: principal.name,
      roles: [...principal.roles],
      expires_at: iso(login.expiresAt),
    };
  };
  server.get('/login', { schema: { response: { 200: contract.loginMethods } } }, async () => ({
    password: Object.keys(access.config.users).length > 0,
    oidc: oidc.enabled,
  }));
  server.post(
    '/login',
    { schema: { body: contract.loginRequest, response: { 200: contract.loginAnswer } } },
    async (request) => {
      const login = await logins.withPassword(request.body.user, request.body.password, request.ip);
      const { principal, token, expiresAt } = login;
      return { token, principal: principal.name, roles: [...principal.roles], expires_at: iso(expiresAt) };
    },
  );
  server.post('/login/device', { schema: { response: { 200: contract.deviceStart } } }, async () => {
    const { flow, response } = await oidc.startDevice();
    return {
      flow,
      verification_uri: response.verification_uri,
      verification_uri_complete: response.verification_uri_complete ?? null,
      user_code: response.user_code,
      expires_at: iso(Date.now() + response.expires_in * 1000),
      interval_seconds: response.interval ?? 5,
    };
  });
  server.post(
    '/login/device/:flow',
    {
      schema: {
        params: z.object({ flow: z.string().max(100) }),
        response: { 200: z.union([contract.loginAnswer, contract.pending]) },
      },
    },
    async (request) => {
      const principal = await oidc.pollDevice(request.params.flow);
      return principal === null ? { pending: true as const } : answer(principal, request.ip);
    },
  );
  server.post(
    '/login/code',
    { schema: { body: contract.codeStartRequest, response: { 200: contract.codeStart } } },
    async (request) => {
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
        response: { 200: contract.loginAnswer },
      },
    },
    async (request) =>
      answer(await oidc.finishCode(request.params.flow, request.body.callback_url), request.ip),
  );
  server.post('/logout', async (request, reply) => {
    const token = bearerToken(request.headers.authorization);
    if (token !== null) logins.logout(token, request.ip);
    return reply.code(204).send();
  });
}

function addSelf(plain: FastifyInstance, { access, signingKeys }: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { logins } = access;
  server.get('/me', { schema: { response: { 200: contract.me } } }, async (request) => {
    const principal = caller(request);
    return {
      principal: principal.name,
      roles: [...principal.roles],
      source: principal.source,
      admin: logins.isAdmin(principal),
      reviewer: logins.isReviewer(principal),
    };
  });
  server.get('/resources', { schema: { response: { 200: z.array(contract.resource) } } }, async (request) => {
    const principal = caller(request);
    return Object.entries(access.config.resources).flatMap(([name, resource]) => {
      const decision = decide(access.rules, {
        principal,
        resource: { name, labels: resource.labels },
        database: null,
        address: request.ip,
        at: Date.now(),
      });
      if (!decision.allowed && !logins.isAdmin(principal)) return [];
      return [
        {
          name,
          type: resource.type,
          database: resource.database ?? null,
          databases:
            (decision.allowed ? decision.terms.databases : null)?.slice() ?? resource.databases ?? null,
          labels: resource.labels,
          read_only: decision.allowed && decision.terms.readOnly,
          rule: decision.allowed ? decision.terms.rule : '',
        },
      ];
    });
  });
  server.get(
    '/access/explain',
    {
      schema: {
        querystring: z.object({
          principal: z.string().optional(),
          resource: z.string(),
          database: z.string().optional(),
          address: z.string().optional(),
          at: z.iso.datetime().optional(),
        }),
        response: { 200: contract.explanation },
      },
    },
    async (request) => {
      const asker = caller(request);
      const { principal: name, resource, database, address, at } = request.query;
      const about = name === undefined || name === asker.name ? asker : access.principalNamed(name);
      if (about !== asker && !logins.isAdmin(asker))
        throw new Refusal('not_allowed', 'only admins may ask about others');
      return access.explain(about, resource, {
        database: database ?? null,
        address: address ?? request.ip,
        at: at === undefined ? Date.now() : Date.parse(at),
      });
    },
  );
  server.get('/keys', { schema: { response: { 200: z.record(z.string(), z.string()) } } }, async () =>
    signingKeys(),
  );
}

function addLaunches(plain: FastifyInstance, { access }: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { logins, launches, state } = access;
  server.post(
    '/launches',
    { schema: { body: contract.launchRequest, response: { 200: contract.launchAnswer } } },
    async (request) => {
      const asker = caller(request);
      const { resource, ttl_seconds, token, reason, principal: other } = request.body;
      if (other !== undefined && other !== asker.name && asker.source !== 'operator')
        throw new Refusal('not_allowed', 'only the operator may make a launch for somebody else');
      if (!Object.hasOwn(access.config.resources, resource))
        throw new Refusal('not_allowed', `there is no resource "${resource}" that you may use`);
      const principal = other === undefined ? asker : access.principalNamed(other);
      const issued = launches.issue({
        principal,
        resource: { name: resource, labels: access.labels(resource) },
        address: request.ip,
        durationMs: ttl_seconds === undefined ? null : ttl_seconds * 1000,
        token,
        reason: reason ?? null,
      });
      return { ...launchView(issued.launch, 0), token: issued.token };
    },
  );
  server.get(
    '/launches',
    {
      schema: {
        querystring: z.object({ all: z.stringbool().optional(), ended: z.stringbool().optional() }),
        response: { 200: z.array(contract.launch) },
      },
    },
    async (request) => {
      const asker = caller(request);
      const everybody = request.query.all === true && logins.isReviewer(asker);
      return state
        .launches({
          ...(everybody ? {} : { principal: asker.name }),
          running: request.query.ended !== true,
          limit: LAUNCHES_MAX,
        })
        .map((launch) => launchView(launch, launches.connections(launch.id)));
    },
  );
  server.delete(
    '/launches/:id',
    { schema: { params: z.object({ id: z.string().max(64) }) } },
    async (request, reply) => {
      const asker = caller(request);
      const launch = state.launch(request.params.id);
      if (launch === null || (launch.principal !== asker.name && !logins.isAdmin(asker)))
        return reply.code(404).send({ error: 'not_found', message: 'there is no such launch of yours' });
      const own = launch.principal === asker.name;
      if (!launches.end(launch.id, asker.name, own ? 'checked_in' : 'revoked'))
        return reply.code(409).send({ error: 'ended', message: 'this launch has ended already' });
      return reply.code(204).send();
    },
  );
}

function addSessions(plain: FastifyInstance, ports: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { gateway } = ports;
  const { logins } = ports.access;
  const id = z.object({ id: z.string().max(64) });
  let streams = 0;
  /** The session, if the caller may see it: its own, or any for reviewers. */
  const visible = (request: FastifyRequest, session: string) => {
    const connection = gateway.session(session);
    const summary = connection?.summary ?? null;
    const asker = caller(request);
    if (connection === null || summary === null) return null;
    return summary.principal === asker.name || logins.isReviewer(asker) ? { connection, summary } : null;
  };
  const missing = { error: 'not_found', message: 'there is no such open session' };

  server.get('/sessions', { schema: { response: { 200: z.array(contract.session) } } }, async (request) => {
    const asker = caller(request);
    const all = logins.isReviewer(asker);
    return [...gateway.connections]
      .map((connection) => connection.summary)
      .filter((summary) => summary !== null && (all || summary.principal === asker.name))
      .map((summary) => sessionView(summary!));
  });
  server.get('/sessions/:id', { schema: { params: id } }, async (request, reply) => {
    const found = visible(request, request.params.id);
    return found === null ? reply.code(404).send(missing) : sessionView(found.summary);
  });
  server.delete(
    '/sessions/:id',
    { schema: { params: id, querystring: z.object({ reason: z.string().max(200).optional() }) } },
    async (request, reply) => {
      const found = visible(request, request.params.id);
      const asker = caller(request);
      if (found === null) return reply.code(404).send(missing);
      if (found.summary.principal !== asker.name && !logins.isAdmin(asker))
        throw new Refusal('not_allowed', "only admins may end others' sessions");
      const { reason } = request.query;
      const message = `the session was ended by ${asker.name}${reason === undefined ? '' : `: ${reason}`}`;
      gateway.kill(found.summary.session, new Refusal('killed', message), 'killed');
      ports.audit({
        action: 'session_killed',
        principal: asker.name,
        resource: found.summary.resource,
        clientAddress: request.ip,
        reason: reason ?? null,
        detail: { session: found.summary.session, of: found.summary.principal },
      });
      return reply.code(204).send();
    },
  );
  server.get('/sessions/:id/events', { schema: { params: id } }, async (request, reply) => {
    const found = visible(request, request.params.id);
    if (found === null) return reply.code(404).send(missing);
    if (streams >= STREAMS_MAX) throw new Refusal('rate_limited', 'too many event streams are open');
    streams += 1;
    reply.hijack();
    const stream = reply.raw;
    stream.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    const send = (event: string, data: object): void => {
      stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
      if (stream.writableLength > STREAM_BYTES_MAX) stream.destroy();
    };
    const unwatch = found.connection.watch({
      began: (statement) => send('began', ports.present(statement, found.summary)),
      ended: (statement) => send('ended', ports.present(statement, found.summary)),
      closed: () => {
        send('closed', {});
        stream.end();
      },
    });
    const ping = setInterval(() => stream.write(': \n\n'), STREAM_PING_MS);
    stream.on('close', () => {
      streams -= 1;
      clearInterval(ping);
      unwatch();
    });
    send('session', sessionView(found.summary));
    return reply;
  });
}

function launchView(launch: StoredLaunch, connections: number): contract.LaunchView {
  return {
    id: launch.id,
    principal: launch.principal,
    resource: launch.resource,
    rule: launch.rule,
    created_at: iso(launch.createdAt),
    expires_at: iso(launch.expiresAt),
    ended_at: launch.endedAt === null ? null : iso(launch.endedAt),
    end_reason: launch.endReason,
    databases: launch.databases === null ? null : [...launch.databases],
    max_connections: launch.maxConnections,
    read_only: launch.readOnly,
    reason: launch.reason,
    connections,
  };
}

function sessionView(summary: SessionSummary): contract.SessionView {
  return {
    id: summary.session,
    principal: summary.principal,
    resource: summary.resource,
    engine: summary.engine,
    started_at: iso(summary.startedAt),
    client_address: summary.clientAddress,
    client_program: summary.clientProgram,
    database_user: summary.databaseUser,
    database: summary.database,
    server_session: summary.serverSession,
    launch: summary.launch,
    busy: summary.busy,
    transaction: summary.transaction,
    bytes_sent: summary.bytesSent,
    bytes_received: summary.bytesReceived,
  };
}

function iso(time: number): string {
  return new Date(time).toISOString();
}
