import { z } from 'zod';
import { duration, secretReference } from './values.ts';

/** What is recorded, how safely, where it goes and how long it stays. */

const directoryStore = z.strictObject({
  type: z.literal('directory'),
  path: z.string().describe('Folder of sealed recordings.'),
});

const s3Store = z.strictObject({
  type: z
    .literal('s3')
    .describe('An S3-compatible bucket. Credentials come from the AWS chain: environment, profile, role.'),
  bucket: z.string().min(3).describe('Its name.'),
  prefix: z
    .string()
    .default('')
    .describe('What the keys of recordings begin with, for example `sallyport/`.'),
  region: z.string().optional().describe('Default: that of the AWS chain.'),
  endpoint: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Of a store that is not AWS: MinIO, Ceph, Garage.'),
  force_path_style: z
    .boolean()
    .optional()
    .describe('Put the bucket into the path and not into the host name. Default: where `endpoint` is set.'),
  object_lock: z
    .strictObject({
      mode: z
        .enum(['governance', 'compliance'])
        .describe('Who may shorten it: those with a permission, or nobody.'),
      period: duration.describe('How long after storing nobody can delete or replace a recording.'),
    })
    .optional()
    .describe('Have the store lock each recording. The bucket must have been made with object lock.'),
});

const indexKeeps = z.enum(['statements', 'sessions', 'off']);

const indexStore = z
  .discriminatedUnion('type', [
    z.strictObject({ type: z.literal('sqlite').describe('A file in `data_dir`, for one gateway.') }),
    z.strictObject({
      type: z.literal('postgres').describe('A database of PostgreSQL (13 or later), for several gateways.'),
      host: z.string().min(1).describe('Host name or address. A path is the folder of a Unix socket.'),
      port: z.int().min(1).max(65535).default(5432).describe('TCP port.'),
      database: z.string().min(1).describe('A database that nothing else uses.'),
      username: z.string().min(1).describe('The account that owns it.'),
      password: secretReference
        .optional()
        .describe('Reference to its password. None: certificate or peer authentication.'),
      tls: z
        .strictObject({
          mode: z
            .enum(['disable', 'require', 'verify-ca', 'verify-full'])
            .default('verify-full')
            .describe('What of the server is verified. `disable` is for Unix sockets and loopback.'),
          ca: z
            .string()
            .optional()
            .describe('File with the certificate authorities to trust (PEM). Default: those of Node.'),
          cert: z.string().optional().describe('File with the client certificate (PEM).'),
          key: z.string().optional().describe('File with the key of that certificate (PEM).'),
          server_name: z
            .string()
            .optional()
            .describe('The name its certificate must carry. Default: `host`.'),
        })
        .prefault({})
        .describe('TLS to that database.'),
    }),
  ])
  .prefault({ type: 'sqlite' })
  .describe('Where the index is.');

const stream = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('file').describe('JSON Lines, appended to a file or written to standard output.'),
    path: z.string().min(1).describe('The file, or `-` for standard output.'),
  }),
  z.strictObject({
    type: z.literal('syslog').describe('RFC 5424 messages with the event as JSON.'),
    host: z.string().min(1).describe('Of the receiver.'),
    port: z.int().min(1).max(65535).default(6514).describe('Its port.'),
    tls: z.boolean().default(true).describe('Over TLS (RFC 5425); else TCP.'),
    ca: z.string().optional().describe('File with the authorities to trust (PEM). Default: those of Node.'),
  }),
  z.strictObject({
    type: z
      .literal('webhook')
      .describe('JSON Lines by POST, sent again until the receiver answers with 2xx.'),
    url: z.url({ protocol: /^https?$/ }).describe('Where to.'),
    secret_file: z
      .string()
      .optional()
      .describe(
        'File with the secret that signs each delivery (HMAC-SHA-256). Default: deliveries are not signed.',
      ),
  }),
  z.strictObject({
    type: z.literal('otlp').describe('OpenTelemetry logs, OTLP over HTTP.'),
    url: z.url({ protocol: /^https?$/ }).describe('Of the collector.'),
    headers: z.record(z.string(), z.string()).default({}).describe('Sent with each request.'),
  }),
]);

export const recordingSchema = z
  .strictObject({
    durability: z
      .enum(['flushed', 'synced', 'buffered'])
      .default('flushed')
      .describe(
        'When a statement may go to the database: `flushed`, its start was handed to the operating system; `synced`, it is on disk; `buffered`, within 100 ms.',
      ),
    on_failure: z
      .enum(['refuse', 'continue'])
      .default('refuse')
      .describe('When the journal cannot be written: end sessions, or go on and leave a gap on record.'),
    parameters: z
      .boolean()
      .default(true)
      .describe('Record bound parameters, where a resource says nothing else.'),
    recipients: z
      .array(z.string())
      .default([])
      .describe('age recipients that may read recordings. Default: a key made in `data_dir`.'),
    recovery_identity: z
      .string()
      .optional()
      .describe(
        'File with an age identity of one of the recipients, with which the gateway itself finishes recordings after a crash. Default: it cannot read them, and stores the unfinished journal for reviewers to open.',
      ),
    index: z
      .union([
        indexKeeps,
        z.strictObject({
          keep: indexKeeps.optional().describe('What it holds, as where it is written alone.'),
          store: indexStore,
        }),
      ])
      .optional()
      .describe(
        'What `recordings search` finds. `statements` keeps their texts in the clear in `data_dir`, or where `store` says. Default: `statements` with the key made there, else `sessions`.',
      ),
    seal_every: duration
      .default(300_000)
      .describe('How long the events of a running session may wait to be sealed and stored.'),
    spool_limit_mib: z
      .int()
      .min(1)
      .default(10_240)
      .describe('Recordings that wait on disk while the store is away; beyond, `on_failure` decides.'),
    retention: duration
      .optional()
      .describe('Recordings are deleted this long after their session ended. Default: never.'),
    streams: z
      .record(z.string().regex(/^[a-z][a-z0-9_-]*$/), stream)
      .default({})
      .describe(
        'Where every event goes as it happens, by name. What a receiver missed while it was away comes when it is back.',
      ),
    store: z
      .discriminatedUnion('type', [directoryStore, s3Store])
      .prefault({ type: 'directory', path: './var/recordings' })
      .describe('Where sealed recordings are kept.'),
  })
  .prefault({});

const mask = z
  .strictObject({
    columns: z
      .array(z.string().min(1))
      .min(1)
      .optional()
      .describe('Columns and parameters whose values are masked, wherever they stand beside their name.'),
    pattern: z
      .string()
      .min(1)
      .optional()
      .describe('A regular expression (of JavaScript) that is masked within literals and parameters.'),
  })
  .refine(
    ({ columns, pattern }) => (columns === undefined) !== (pattern === undefined),
    'write `columns` or `pattern`',
  )
  .refine(({ pattern }) => pattern === undefined || isPattern(pattern), {
    path: ['pattern'],
    message: 'is no regular expression of JavaScript',
  });

function isPattern(text: string): boolean {
  try {
    new RegExp(text, 'u');
    return true;
  } catch {
    return false;
  }
}

/** What a resource says of its own recordings. */
export const resourceRecordingSchema = z
  .strictObject({
    parameters: z
      .enum(['on', 'off', 'masked'])
      .optional()
      .describe(
        'Bound parameters: with values, not at all, or names and types alone. Default: as `recording.parameters`.',
      ),
    columns: z.boolean().default(true).describe('Record the column names of results.'),
    sample_rows: z
      .int()
      .min(0)
      .max(1000)
      .default(0)
      .describe('Record the first rows of each result. 0 leaves row data unread.'),
    raw_frames: z
      .boolean()
      .default(false)
      .describe(
        'Record every byte of both directions too, for forensics (`recordings export --format pcapng`). Nothing in them is masked, and they take as much room as the traffic.',
      ),
    masks: z
      .array(mask)
      .default([])
      .describe('What is masked before anything is written. Credentials in statements are masked always.'),
    retention: duration
      .optional()
      .describe(
        'Recordings are deleted this long after their session ended. Default: as `recording.retention`.',
      ),
    legal_hold: z
      .boolean()
      .default(false)
      .describe('Keep all recordings of this resource until this is off again.'),
  })
  .prefault({})
  .describe('What is recorded of sessions on this resource.');
