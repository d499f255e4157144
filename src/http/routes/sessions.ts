import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { Refusal } from '../../../protocols/error.ts';
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
  const { sessions } = ports;
  const { logins } = ports.access;
  const id = z.object({ id: z.string().max(64) });
  let streams = 0;
  /** The session, if the caller may see it: its own, or any for reviewers. */
  const visible = async (request: FastifyRequest, session: string): Promise<SessionSummary | null> => {
    const summary = await sessions.one(session);
    const asker = caller(request);
    if (summary === null) return null;
    return summary.principal === asker.name || logins.isReviewer(asker) ? summary : null;
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
      return (await sessions.all())
        .filter((summary) => all || summary.principal === asker.name)
        .map((summary) => sessionView(summary));
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
      const found = await visible(request, request.params.id);
      if (found === null) throw missing();
      return sessionView(found);
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
      const found = await visible(request, request.params.id);
      const asker = caller(request);
      if (found === null) throw missing();
      if (found.principal !== asker.name && !logins.isAdmin(asker))
        throw new Refusal('not_allowed', "only admins may end others' sessions");
      const { reason } = request.query;
      const message = `the session was ended by ${asker.name}${reason === undefined ? '' : `: ${reason}`}`;
      await sessions.kill(found.session, new Refusal('killed', message), 'killed');
      ports.audit({
        action: 'session_killed',
        principal: asker.name,
        resource: found.resource,
        clientAddress: addressOf(request),
        reason: reason ?? null,
        detail: { session: found.session, of: found.principal },
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
      const found = await visible(request, request.params.id);
      if (found === null) throw missing();
      if (streams >= STREAMS_MAX) throw new Refusal('rate_limited', 'too many event streams are open');
      streams += 1;
      const stream = reply.raw;
      let unwatch: (() => void) | null = null;
      stream.once('close', () => {
        streams -= 1;
        unwatch?.();
      });
      const begin = (): void => {
        if (stream.headersSent) return;
        reply.hijack();
        stream.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
        send('session', sessionView(found));
      };
      const send = (event: string, data: object): void => {
        begin();
        stream.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
        if (stream.writableLength > STREAM_BYTES_MAX) stream.destroy();
      };
      unwatch = await sessions.watch(found.session, {
        began: (shown) => send('began', shown),
        ended: (shown) => send('ended', shown),
        closed: () => {
          send('closed', {});
          stream.end();
        },
      });
      if (unwatch === null) throw missing();
      // The caller may have gone meanwhile.
      if (stream.destroyed) {
        unwatch();
        return reply.hijack();
      }
      begin();
      // The stream is older than its reader's rights may be.
      const ping = setInterval(async () => {
        const token = bearerToken(request.headers.authorization);
        request.principal = token === null ? null : logins.principal(token);
        if (request.principal === null || (await visible(request, request.params.id)) === null) stream.end();
        else stream.write(': \n\n');
      }, STREAM_PING_MS);
      stream.once('close', () => clearInterval(ping));
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
