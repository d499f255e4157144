import { z } from 'zod';

const DURATION_UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `500ms`, `30s`, `5m`, `8h`, `1d`; milliseconds when parsed. */
export const duration = z.union([
  z
    .string()
    .regex(/^\d+(ms|s|m|h|d)$/, 'write a whole number and a unit: 500ms, 30s, 5m, 8h, 1d')
    .transform((text) => {
      const [, count, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(text) as unknown as [string, string, string];
      return Number(count) * DURATION_UNITS_MS[unit]!;
    }),
  z.int().positive(),
]);

export type ListenAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

/** `127.0.0.1:15432`, `[::1]:15432`, `unix:/run/sallyport/orders.sock`. */
export const listenAddress = z.string().transform((text, context): ListenAddress => {
  if (text.startsWith('unix:') && text.length > 5) return { kind: 'unix', path: text.slice(5) };
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port > 65535) {
    context.addIssue({ code: 'custom', message: 'write HOST:PORT (127.0.0.1:15432) or unix:/path/to.sock' });
    return z.NEVER;
  }
  return { kind: 'tcp', host: (match[1] ?? match[2])!, port };
});

/** `PROVIDER:PATH[#FIELD]`, kept as text here and parsed where it is used. */
export const secretReference = z
  .string()
  .regex(
    /^[a-z][a-z0-9_-]*:[^#]+(#[^#]+)?$/,
    'write PROVIDER:PATH or PROVIDER:PATH#FIELD, for example env:ORDERS_PASSWORD',
  );
