import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { Refusal } from '../../../protocols/error.ts';
import { decide } from '../../access/rules.ts';
import type { ApiPorts } from '../api-ports.ts';
import { addressOf, caller } from '../authentication.ts';
import * as contract from '../contract/api.ts';
import { failures } from '../failures.ts';
import { about } from '../summaries.ts';

/** What the caller is and may: itself, resources, explanations, and the keys that recordings are checked by. */
export function addSelf(plain: FastifyInstance, { access, signingKeys }: ApiPorts): void {
  const server = plain.withTypeProvider<ZodTypeProvider>();
  const { logins } = access;
  server.get(
    '/me',
    { schema: { response: { 200: contract.me, ...failures }, ...about('Who one is.') } },
    async (request) => {
      const principal = caller(request);
      return {
        principal: principal.name,
        roles: [...principal.roles],
        source: principal.source,
        admin: logins.isAdmin(principal),
        reviewer: logins.isReviewer(principal),
      };
    },
  );
  server.get(
    '/resources',
    {
      schema: {
        response: { 200: z.array(contract.resource), ...failures },
        ...about('Resources that one may use.'),
      },
    },
    async (request) => {
      const principal = caller(request);
      return Object.entries(access.config.resources).flatMap(([name, resource]) => {
        const decision = decide(access.rules, {
          principal,
          resource: { name, labels: resource.labels },
          database: null,
          address: addressOf(request),
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
    },
  );
  server.get(
    '/access/explain',
    {
      schema: {
        querystring: z.object({
          principal: z.string().max(256).optional(),
          resource: z.string().max(256),
          database: z.string().max(256).optional(),
          address: z.union([z.ipv4(), z.ipv6()]).optional(),
          at: z.iso.datetime().optional(),
        }),
        response: { 200: contract.explanation, ...failures },
        ...about('Whether somebody may use a resource, by which rule, or why not.'),
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
        address: address ?? addressOf(request),
        at: at === undefined ? Date.now() : Date.parse(at),
      });
    },
  );
  server.get(
    '/keys',
    {
      schema: {
        response: { 200: z.record(z.string(), z.string()), ...failures },
        ...about('Public keys that sign recordings (PEM), by id.'),
      },
    },
    async () => signingKeys(),
  );
}
