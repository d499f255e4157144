import { z } from 'zod';

/**
 * What the two ends of a tunnel say to each other.
 *
 * Each database connection has a WebSocket of its own, at `/tunnel?launch=ID&role=connection`: binary messages carry its
 * bytes, and one text message, `end`, says that a side sends no more (WebSocket itself has no half-close). Closing the
 * WebSocket without it is an abort, as a reset is in TCP.
 *
 * A tunnel has one more, with `role=control`, whose text messages are the JSON below.
 */
export const TUNNEL_PATH = 'tunnel';
export const SUBPROTOCOL = 'sallyport.tunnel.v1';
export const END = 'end';

export type TunnelRole = 'control' | 'connection';

/** Close codes of the range for private use (RFC 6455, section 7.4.2). */
export const CloseCode = {
  done: 1000,
  /** The gateway goes away; another, or the same, may be back soon. */
  restart: 1012,
  /** The launch has ended: there is nothing to come back for. */
  launchEnded: 4000,
  /** Another control channel of the same tunnel has taken this one's place. */
  replaced: 4001,
  /** The peer broke the rules above. */
  violation: 4002,
  /** The connection broke off where it began: the other side of the gateway or of the listener is gone. */
  aborted: 4003,
} as const;

export const resourceTypes = ['postgres', 'mysql', 'mariadb', 'sqlserver'] as const;

const hello = z.object({
  type: z.literal('hello'),
  gateway: z.string(),
  launch: z.string(),
  principal: z.string(),
  resource: z.string(),
  resource_type: z.enum(resourceTypes),
  database: z.string().nullable(),
  /** The account that Sallyport signs in as, where the configuration names it. */
  account: z.string().nullable(),
  read_only: z.boolean(),
  /** Connections must give the launch token as password. */
  requires_token: z.boolean(),
  /** ISO 8601. */
  expires_at: z.string(),
});

/** From the gateway. Unknown types are skipped, so that a newer gateway can say more. */
export const gatewayMessage = z.discriminatedUnion('type', [
  hello,
  z.object({ type: z.literal('launch_ended'), message: z.string() }),
  z.object({ type: z.literal('draining') }),
]);

/** From the tunnel. */
export const tunnelMessage = z.discriminatedUnion('type', [
  /** The person closes the tunnel, and its launch with it. */
  z.object({ type: z.literal('close') }),
  /** Somebody else on the person's machine tried to use it, `count` times since this was last said. */
  z.object({
    type: z.literal('local_refused'),
    uid: z.number().int(),
    count: z.number().int().positive(),
  }),
]);

export type Hello = z.output<typeof hello>;
export type GatewayMessage = z.output<typeof gatewayMessage>;
export type TunnelMessage = z.output<typeof tunnelMessage>;
export type ResourceType = (typeof resourceTypes)[number];

/** Parses a control message; null for what is none. */
export function parseMessage<T>(schema: z.ZodType<T>, text: string): T | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const parsed = schema.safeParse(value);
  return parsed.success ? parsed.data : null;
}

/** What is answered to an upgrade that is refused, with an HTTP status of its own. */
export const refusalBody = z.object({
  error: z.string(),
  message: z.string(),
  hint: z.string().nullable().optional(),
});
