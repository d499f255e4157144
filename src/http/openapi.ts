import { fastify } from 'fastify';
import { addApi } from './api.ts';
import type { ApiPorts } from './api-ports.ts';

/** The OpenAPI document of the API, as `docs/openapi.json` holds it: routes are registered for it and never called. */
export async function openApiDocument(): Promise<string> {
  const server = fastify();
  await addApi(server, { access: {} } as unknown as ApiPorts);
  const { body } = await server.inject({ method: 'GET', url: '/api/v1/openapi.json' });
  await server.close();
  return `${JSON.stringify(JSON.parse(body), null, 2)}\n`;
}
