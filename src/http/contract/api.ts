import { z } from 'zod';

/** What the API takes and gives: shared by the server, the command line and whoever reads the OpenAPI document. */

const time = z.iso.datetime().describe('ISO 8601, UTC.');

/** Text that is shown and recorded on one line: no control characters. */
export const oneLine = z.string().regex(/^[^\p{Cc}\u2028\u2029]*$/u, { error: 'has control characters' });

export const failure = z.object({
  error: z.string().describe('A stable code.'),
  message: z.string(),
  hint: z.string().nullable().optional(),
});

export const loginRequest = z.object({
  user: oneLine.min(1).max(256),
  password: z.string().min(1).max(1024),
});

export const loginAnswer = z.object({
  token: z.string().describe('For `authorization: Bearer …`. Shown this once.'),
  principal: z.string(),
  roles: z.array(z.string()),
  expires_at: time,
});

export const loginMethods = z.object({ password: z.boolean(), oidc: z.boolean() });

export const deviceStart = z.object({
  flow: z.string(),
  verification_uri: z.string(),
  verification_uri_complete: z.string().nullable(),
  user_code: z.string(),
  expires_at: time,
  interval_seconds: z.number(),
});

export const codeStartRequest = z.object({ redirect_uri: z.url().max(2048) });
export const codeStart = z.object({ flow: z.string(), authorization_url: z.string() });
export const codeFinishRequest = z.object({ callback_url: z.url().max(16_384) });
export const pending = z.object({ pending: z.literal(true) });

export const me = z.object({
  principal: z.string(),
  roles: z.array(z.string()),
  source: z.string(),
  admin: z.boolean(),
  reviewer: z.boolean(),
});

export const resource = z.object({
  name: z.string(),
  type: z.string(),
  database: z.string().nullable(),
  databases: z.array(z.string()).nullable(),
  labels: z.record(z.string(), z.string()),
  read_only: z.boolean(),
  rule: z.string(),
});

export const launchRequest = z.object({
  resource: z.string().min(1).max(256),
  ttl_seconds: z
    .number()
    .int()
    .positive()
    .max(31 * 86_400)
    .optional(),
  token: z.boolean().default(true),
  reason: oneLine.max(1000).optional(),
  /** Only the operator may name somebody else. */
  principal: oneLine.min(1).max(256).optional(),
});

export const launch = z.object({
  id: z.string(),
  principal: z.string(),
  resource: z.string(),
  rule: z.string(),
  created_at: time,
  expires_at: time,
  ended_at: time.nullable(),
  end_reason: z.string().nullable(),
  databases: z.array(z.string()).nullable(),
  max_connections: z.number().nullable(),
  read_only: z.boolean(),
  reason: z.string().nullable(),
  connections: z.number(),
});

export const launchAnswer = launch.extend({
  token: z.string().nullable().describe('To type as password. Shown this once.'),
});

export const session = z.object({
  id: z.string(),
  principal: z.string(),
  resource: z.string(),
  engine: z.string(),
  started_at: time,
  client_address: z.string(),
  client_program: z.string().nullable(),
  database_user: z.string(),
  database: z.string().nullable(),
  server_session: z.string().nullable(),
  launch: z.string().nullable(),
  busy: z.boolean(),
  transaction: z.string(),
  bytes_sent: z.number(),
  bytes_received: z.number(),
});

export const explanation = z.object({
  allowed: z.boolean(),
  rule: z.string().nullable(),
  reasons: z.array(z.object({ rule: z.string(), why: z.string() })),
  read_only: z.boolean(),
  databases: z.array(z.string()).nullable(),
  max_launch_seconds: z.number().nullable(),
  max_connections: z.number().nullable(),
});

export type LoginAnswer = z.output<typeof loginAnswer>;
export type LaunchAnswer = z.output<typeof launchAnswer>;
export type LaunchView = z.output<typeof launch>;
export type SessionView = z.output<typeof session>;
export type ResourceView = z.output<typeof resource>;
export type Explanation = z.output<typeof explanation>;
