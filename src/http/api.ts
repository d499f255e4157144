import swagger from '@fastify/swagger';
import type { FastifyInstance, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify';
import {
  jsonSchemaTransform,
  serializerCompiler,
  validatorCompiler,
  type ZodTypeProvider,
} from 'fastify-type-provider-zod';
import { Refusal } from '../../protocols/error.ts';
import { version } from '../version.ts';
import type { ApiPorts } from './api-ports.ts';
import { addressOf, requireLogin, statusOf } from './authentication.ts';
import { ApiError } from './failures.ts';
import { addLaunches } from './routes/launches.ts';
import { addLogins } from './routes/logins.ts';
import { addSelf } from './routes/self.ts';
import { addSessions } from './routes/sessions.ts';

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
      if (error instanceof ApiError)
        return reply.code(error.status).send({ error: error.code, message: error.message });
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

/**
 * Every call is on record, with who and what came of it. Those that were turned away for coming too often are not: they
 * would fill the journal.
 */
function audit(ports: ApiPorts, request: FastifyRequest, reply: FastifyReply): void {
  if (reply.statusCode === 429) return;
  ports.audit({
    action: 'api_call',
    principal: request.principal?.name ?? null,
    resource: null,
    clientAddress: addressOf(request),
    reason: null,
    detail: { method: request.method, route: request.routeOptions.url ?? 'none', status: reply.statusCode },
  });
}
