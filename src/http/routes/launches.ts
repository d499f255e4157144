import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { Refusal } from '../../../protocols/error.ts';
import type { StoredLaunch } from '../../store/state.ts';
import type { ApiPorts } from '../api-ports.ts';
import { addressOf, caller } from '../authentication.ts';
import * as contract from '../contract/api.ts';
import { ApiError, failures, timeText } from '../failures.ts';
import { about } from '../summaries.ts';

/** Launches shown at once. Ours. */
const LAUNCHES_MAX = 1_000;

/** Launches: make one, list them, end one. */
export function addLaunches(plain: FastifyInstance, { access }: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { logins, launches, state } = access;
  server.post(
    '/launches',
    {
      schema: {
        body: contract.launchRequest,
        response: { 200: contract.launchAnswer, ...failures },
        ...about('Make a launch.'),
      },
    },
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
        address: addressOf(request),
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
        response: { 200: z.array(contract.launch), ...failures },
        ...about("Launches that last, or all: one's own, or everybody's for reviewers."),
      },
    },
    async (request) => {
      const asker = caller(request);
      const everybody = request.query.all === true;
      if (everybody && !logins.isReviewer(asker))
        throw new Refusal('not_allowed', "only reviewers may see everybody's launches");
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
    {
      schema: {
        params: z.object({ id: z.string().max(64) }),
        response: { 204: z.null(), ...failures, 404: contract.failure, 409: contract.failure },
        ...about('End a launch, and with it its sessions.'),
      },
    },
    async (request, reply) => {
      const asker = caller(request);
      const launch = state.launch(request.params.id);
      if (launch === null || (launch.principal !== asker.name && !logins.isAdmin(asker)))
        throw new ApiError(404, 'not_found', 'there is no such launch of yours');
      const own = launch.principal === asker.name;
      if (!launches.end(launch.id, asker.name, own ? 'checked_in' : 'revoked'))
        throw new ApiError(409, 'ended', 'this launch has ended already');
      return reply.code(204).send(null);
    },
  );
}

function launchView(launch: StoredLaunch, connections: number): contract.LaunchView {
  return {
    id: launch.id,
    principal: launch.principal,
    resource: launch.resource,
    rule: launch.rule,
    created_at: timeText(launch.createdAt),
    expires_at: timeText(launch.expiresAt),
    ended_at: launch.endedAt === null ? null : timeText(launch.endedAt),
    end_reason: launch.endReason,
    databases: launch.databases === null ? null : [...launch.databases],
    max_connections: launch.maxConnections,
    read_only: launch.readOnly,
    reason: launch.reason,
    connections,
  };
}
