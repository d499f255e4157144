import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { Refusal } from '../../../protocols/error.ts';
import type { Connection } from '../../gateway/connection.ts';
import type { SessionSummary } from '../../gateway/summary.ts';
import type { ApiPorts } from '../api-ports.ts';
import { addressOf, bearerToken, caller } from '../authentication.ts';
import * as contract from '../contract/api.ts';
import { ApiError, failures, timeText } from '../failures.ts';
import { about } from '../summaries.ts';

/** Event streams open at once in one process. Ours. */
const STREAMS_MAX = 200;
/** Bytes that a slow reader may be behind; beyond, its stream is ended. Ours. */
const STREAM_BYTES_MAX = 4 * 1024 * 1024;
/** How often a stream is pinged, and its reader's login looked at again. Ours. */
const STREAM_PING_MS = 15_000;

/** Open sessions: list them, follow one, end one. */
export function addSessions(plain: FastifyInstance, ports: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { gateway } = ports;
  const { logins } = ports.access;
  const id = z.object({ id: z.string().max(64) });
  let streams = 0;
  /** The session, if the caller may see it: its own, or any for reviewers. */
  const visible = (
    request: FastifyRequest,
    session: string,
  ): { connection: Connection; summary: SessionSummary } | null => {
    const connection = gateway.session(session);
    const summary = connection?.summary ?? null;
    const asker = caller(request);
    if (connection === null || summary === null) return null;
    return summary.principal === asker.name || logins.isReviewer(asker) ? { connection, summary } : null;
  };
  const missing = (): ApiError => new ApiError(404, 'not_found', 'there is no such open session');

  server.get(
    '/sessions',
    {
      schema: {
        response: { 200: z.array(contract.session), ...failures },
        ...about("Open sessions: one's own, or everybody's for reviewers."),
      },
    },
    async (request) => {
      const asker = caller(request);
      const all = logins.isReviewer(asker);
      return [...gateway.connections]
        .map((connection) => connection.summary)
        .filter((summary) => summary !== null && (all || summary.principal === asker.name))
        .map((summary) => sessionView(summary!));
    },
  );
  server.get(
    '/sessions/:id',
    {
      schema: {
        params: id,
        response: { 200: contract.session, ...failures, 404: contract.failure },
        ...about('One open session.'),
      },
    },
    async (request) => {
      const found = visible(request, request.params.id);
      if (found === null) throw missing();
      return sessionView(found.summary);
    },
  );
  server.delete(
    '/sessions/:id',
    {
      schema: {
        params: id,
        querystring: z.object({ reason: contract.oneLine.max(200).optional() }),
        response: { 204: z.null(), ...failures, 404: contract.failure },
        ...about('End a session: its tool hears why.'),
      },
    },
    async (request, reply) => {
      const found = visible(request, request.params.id);
      const asker = caller(request);
      if (found === null) throw missing();
      if (found.summary.principal !== asker.name && !logins.isAdmin(asker))
        throw new Refusal('not_allowed', "only admins may end others' sessions");
      const { reason } = request.query;
      const message = `the session was ended by ${asker.name}${reason === undefined ? '' : `: ${reason}`}`;
      gateway.kill(found.summary.session, new Refusal('killed', message), 'killed');
      ports.audit({
        action: 'session_killed',
        principal: asker.name,
        resource: found.summary.resource,
        clientAddress: addressOf(request),
        reason: reason ?? null,
        detail: { session: found.summary.session, of: found.summary.principal },
      });
      return reply.code(204).send(null);
    },
  );
  server.get(
    '/sessions/:id/events',
    {
      schema: {
        params: id,
        produces: ['text/event-stream'],
        response: { ...failures, 404: contract.failure },
        ...about(
          'Statements of a session as they happen, as server-sent events: `session`, then `began` and `ended` for each statement, masked as they are recorded, then `closed`.',
        ),
      },
    },
    async (request, reply) => {
      const found = visible(request, request.params.id);
      if (found === null) throw missing();
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
      // The stream is older than its reader's rights may be.
      const ping = setInterval(() => {
        const token = bearerToken(request.headers.authorization);
        request.principal = token === null ? null : logins.principal(token);
        if (request.principal === null || visible(request, request.params.id) === null) stream.end();
        else stream.write(': \n\n');
      }, STREAM_PING_MS);
      stream.on('close', () => {
        streams -= 1;
        clearInterval(ping);
        unwatch();
      });
      send('session', sessionView(found.summary));
      return reply;
    },
  );
}

function sessionView(summary: SessionSummary): contract.SessionView {
  return {
    id: summary.session,
    principal: summary.principal,
    resource: summary.resource,
    engine: summary.engine,
    started_at: timeText(summary.startedAt),
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
