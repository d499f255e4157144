import { z } from 'zod';
import { apiSchema, certificateSchema, oidcSchema, ruleSchema, userSchema } from './access-schema.ts';
import { recordingSchema, resourceRecordingSchema } from './recording-schema.ts';
import { duration, listenAddress, secretReference } from './values.ts';

/**
 * The configuration: the one source of its types, defaults, JSON Schema and documentation. Every field has a
 * `describe`; unknown keys are errors.
 */

const tlsToServer = z
  .strictObject({
    mode: z
      .enum(['disable', 'prefer', 'require', 'verify-ca', 'verify-full'])
      .default('verify-full')
      .describe('How TLS is asked of the database. Only `prefer` may go on without it.'),
    ca: z
      .string()
      .optional()
      .describe('File with the certificate authorities to trust (PEM). Default: those of Node.'),
    cert: z.string().optional().describe('File with the client certificate to show to the database (PEM).'),
    key: z.string().optional().describe('File with the key of that certificate (PEM).'),
    server_name: z
      .string()
      .optional()
      .describe("The name the database's certificate must carry. Default: `host`."),
    min_version: z
      .enum(['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'])
      .default('TLSv1.2')
      .describe('The oldest TLS version to accept.'),
  })
  .describe('TLS between Sallyport and the database.');

const limits = z
  .strictObject({
    idle_timeout: duration
      .optional()
      .describe('A session without a running statement is ended after this long. Default: never.'),
    idle_in_transaction_timeout: duration
      .optional()
      .describe('The same, inside a transaction. Default: as `idle_timeout`.'),
    max_duration: duration.optional().describe('A session is ended after this long. Default: never.'),
    max_connections: z
      .int()
      .positive()
      .max(100_000)
      .default(1000)
      .describe('Sessions at once on this resource.'),
    connect_timeout: duration.prefault('10s').describe('To connect to one address of the database.'),
    handshake_timeout: duration.prefault('60s').describe('For the whole sign-in of a client, TLS included.'),
  })
  .describe('Limits of sessions.');

const launchCredentials = z
  .union([
    z.strictObject({
      username: z.string().min(1).describe('The account that Sallyport signs in with.'),
      password: secretReference
        .optional()
        .describe(
          'Reference to its password, `PROVIDER:PATH[#FIELD]`. None: certificate or peer authentication.',
        ),
      token: secretReference
        .optional()
        .describe('Reference to an access token instead of a password (Entra, RDS IAM).'),
    }),
    secretReference.describe('One reference that gives both name and password.'),
  ])
  .describe('What Sallyport signs in to the database with.');

const resourceCommon = {
  host: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1).max(16)])
    .describe(
      'Host name or address, or a list of them; each may have a port of its own (`db-2:5433`). A path is a Unix socket: its folder for PostgreSQL, the socket itself for MySQL and MariaDB.',
    ),
  port: z.int().min(1).max(65535).optional().describe("TCP port. Default: the type's own."),
  database: z
    .string()
    .min(1)
    .max(128)
    .optional()
    .describe('The database that is opened when a client names none.'),
  databases: z
    .array(z.string().min(1))
    .min(1)
    .optional()
    .describe('The only databases that clients may open. Default: any.'),
  labels: z.record(z.string(), z.string()).default({}).describe('Labels for access rules.'),
  tls: tlsToServer.prefault({}),
  launch_credentials: launchCredentials,
  limits: limits.prefault({}),
  allow_replication: z.boolean().default(false).describe('Let replication connections and commands through.'),
  allow_password_change: z
    .boolean()
    .default(false)
    .describe("Let statements through that change the launch account's own password."),
  recording: resourceRecordingSchema,
};

const postgres = z.strictObject({
  type: z.literal('postgres'),
  ...resourceCommon,
  channel_binding: z
    .enum(['disable', 'prefer', 'require'])
    .default('prefer')
    .describe('SCRAM channel binding toward the server.'),
  target_session_attrs: z
    .enum(['any', 'read-write', 'read-only', 'primary', 'standby', 'prefer-standby'])
    .default('any')
    .describe('Which of several hosts will do.'),
  direct_tls: z
    .boolean()
    .default(false)
    .describe('Start TLS at once (PostgreSQL 17 and later), without asking first.'),
  protocol_version: z.enum(['3.0', '3.2']).default('3.0').describe('Protocol version asked of the server.'),
  scram_iterations_max: z
    .int()
    .min(4096)
    .max(100_000_000)
    .default(1_000_000)
    .describe('Most PBKDF2 rounds a server may ask for.'),
  md5_without_tls: z
    .boolean()
    .default(false)
    .describe(
      'Answer a server that asks for an MD5 password over a network without verified TLS. Within this machine and over verified TLS it is answered anyway.',
    ),
});

const mysqlCommon = {
  ...resourceCommon,
  allow_local_infile: z.boolean().default(false).describe('Let LOAD DATA LOCAL INFILE through.'),
  server_public_key: z
    .string()
    .optional()
    .describe("File with the server's RSA public key (PEM), for sign-in without TLS."),
  fetch_server_public_key: z
    .boolean()
    .default(false)
    .describe('Ask the server for that key. It is not authenticated: TLS is better.'),
};
const mysql = z.strictObject({ type: z.literal('mysql'), ...mysqlCommon });
const mariadb = z.strictObject({ type: z.literal('mariadb'), ...mysqlCommon });

const sqlserver = z.strictObject({
  type: z.literal('sqlserver'),
  ...resourceCommon,
  encryption: z
    .enum(['off', 'login-only', 'on', 'strict'])
    .default('on')
    .describe('Encryption toward the server; `strict` is TDS 8.0.'),
  client_encryption: z
    .enum(['required', 'login', 'none'])
    .optional()
    .describe('Encryption asked of clients. Default: `login` on loopback listeners, else `required`.'),
  mars: z.boolean().default(false).describe('Let clients use multiple active result sets.'),
  windows_domain: z.string().optional().describe('Sign in with NTLMv2 as an account of this domain.'),
  server_name: z.string().optional().describe('What LOGIN7 calls the server. Default: `host`.'),
});

export const resourceSchema = z.discriminatedUnion('type', [postgres, mysql, mariadb, sqlserver]);

export const listenerSchema = z.strictObject({
  listen: listenAddress.describe('`HOST:PORT`, or `unix:/path/to.sock`.'),
  resource: z.string().optional().describe('The resource it serves.'),
  resources: z
    .array(z.string())
    .min(1)
    .optional()
    .describe(
      'Several resources of one protocol: the launch in the user name chooses. Needs `client_auth: token`.',
    ),
  client_auth: z
    .enum(['trust', 'token', 'mtls'])
    .default('trust')
    .describe('How clients prove who they are. `trust` only on loopback and Unix sockets.'),
  principal: z.string().min(1).default('local').describe('Who trusted connections are recorded as.'),
  certificate: certificateSchema.prefault({}),
  tls: z
    .strictObject({
      mode: z
        .enum(['prefer', 'require'])
        .default('prefer')
        .describe('`require` refuses clients that do not encrypt.'),
      cert: z.string().describe('File with the certificate chain to show to clients (PEM).'),
      key: z.string().describe('File with its key (PEM).'),
      client_ca: z
        .string()
        .optional()
        .describe('Authorities that client certificates must come from (mtls).'),
    })
    .optional()
    .describe(
      'TLS toward clients. Default: none is offered; for SQL Server, whose drivers insist on it, a certificate is made in `data_dir`.',
    ),
  cancel_source: z
    .enum(['same-ip', 'any'])
    .default('same-ip')
    .describe('From where a statement may be cancelled.'),
});

/** How long a provider is waited for, and how long its answers are used. */
const fetching = {
  timeout: duration.prefault('10s').describe('For one secret, all attempts together.'),
  cache: duration
    .prefault('60s')
    .describe(
      'How long a secret is used before it is fetched again; `0s`: each time. Never longer than its lease.',
    ),
};

const httpAddress = z.url({ protocol: /^https?$/, error: 'write https://HOST:PORT' });
const certificateAuthority = z
  .string()
  .optional()
  .describe('File with the authorities to trust (PEM). Default: those of Node.');

const vaultAuth = z
  .discriminatedUnion('method', [
    z.strictObject({
      method: z.literal('token'),
      token: secretReference.optional().describe('Reference to the token, in another provider.'),
      token_file: z
        .string()
        .optional()
        .describe("File with the token, read anew each time: an agent's sink."),
    }),
    z.strictObject({
      method: z.literal('approle'),
      mount: z.string().default('approle').describe('Where the method is mounted, without `auth/`.'),
      role_id: z.string().describe('The role.'),
      secret_id: secretReference.describe('Reference to its secret, in another provider.'),
    }),
    z.strictObject({
      method: z.literal('kubernetes'),
      mount: z.string().default('kubernetes').describe('Where the method is mounted, without `auth/`.'),
      role: z.string().describe('The role.'),
      token_file: z
        .string()
        .default('/var/run/secrets/kubernetes.io/serviceaccount/token')
        .describe("File with the pod's service account token."),
    }),
    z.strictObject({
      method: z.literal('jwt'),
      mount: z.string().default('jwt').describe('Where the method is mounted, without `auth/`.'),
      role: z.string().describe('The role.'),
      token_file: z.string().describe('File with the JWT, read at each sign-in.'),
    }),
  ])
  .describe('How Sallyport signs in to Vault.');

const azureAuth = z
  .discriminatedUnion('method', [
    z.strictObject({
      method: z.literal('managed-identity'),
      client_id: z.string().optional().describe('A user-assigned identity. Default: that of the system.'),
    }),
    z.strictObject({
      method: z.literal('workload-identity'),
      tenant_id: z.string().optional().describe('Default: AZURE_TENANT_ID.'),
      client_id: z.string().optional().describe('Default: AZURE_CLIENT_ID.'),
      token_file: z.string().optional().describe('Default: AZURE_FEDERATED_TOKEN_FILE.'),
    }),
    z.strictObject({
      method: z.literal('client-secret'),
      tenant_id: z.string().describe('The directory (tenant).'),
      client_id: z.string().describe('The application (client).'),
      client_secret: secretReference.describe('Reference to its secret, in another provider.'),
    }),
  ])
  .prefault({ method: 'managed-identity' })
  .describe('How Sallyport signs in to Azure.');

const googleAuth = z
  .discriminatedUnion('method', [
    z.strictObject({ method: z.literal('metadata') }),
    z.strictObject({
      method: z.literal('service-account'),
      key_file: z.string().describe("File with the service account's key (JSON)."),
    }),
  ])
  .prefault({ method: 'metadata' })
  .describe('How Sallyport signs in to Google Cloud: the machine or pod it runs on, or a key.');

export const providerSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('env') }).describe('Environment variables of the gateway. `env:NAME`.'),
  z
    .strictObject({
      type: z.literal('file'),
      path: z.string().describe('The encrypted file.'),
      identity: z.string().describe('File with the age identity that opens it.'),
    })
    .describe('A file encrypted with age, kept with `sallyport secrets`. `NAME:ENTRY[#FIELD]`.'),
  z
    .strictObject({
      type: z.literal('exec'),
      command: z
        .array(z.string())
        .min(1)
        .describe('Program and arguments; the path of the reference is appended. There is no shell.'),
      environment: z
        .array(z.string())
        .default([])
        .describe('Names of variables of the gateway that the command sees, beside PATH, HOME and the like.'),
      timeout: duration.prefault('10s').describe('After which it is ended, with all that it started.'),
      cache: duration.prefault('60s').describe('How long its answer is used; `0s`: each time.'),
    })
    .describe("A command's standard output. `NAME:ARGUMENT[#FIELD]`."),
  z
    .strictObject({
      type: z.literal('directory'),
      path: z.string().describe('The folder.'),
    })
    .describe(
      'Files of a folder, read anew each time: Kubernetes and Docker secrets as they are mounted, systemd credentials. `NAME:FILE`, or `NAME:FOLDER` whose files are the fields.',
    ),
  z
    .strictObject({
      type: z.literal('vault'),
      address: httpAddress.describe('`https://HOST:PORT` of HashiCorp Vault or OpenBao.'),
      namespace: z.string().optional().describe('The namespace that paths begin in.'),
      ca: certificateAuthority,
      auth: vaultAuth,
      ...fetching,
    })
    .describe(
      'HashiCorp Vault or OpenBao: key-value secrets of both versions, and accounts made for each session by the database engine (`NAME:database/creds/ROLE`), renewed while it runs and revoked when it ends. `NAME:MOUNT/PATH[#FIELD]`.',
    ),
  z
    .strictObject({
      type: z.literal('aws-secrets-manager'),
      region: z.string().optional().describe('Default: as the AWS SDK finds it (AWS_REGION, profile).'),
      endpoint: httpAddress.optional().describe('Another endpoint, for a VPC or a test.'),
      ...fetching,
    })
    .describe(
      "AWS Secrets Manager, signed in as the AWS SDK's default chain finds. `NAME:SECRET[#FIELD]`, SECRET being a name or an ARN.",
    ),
  z
    .strictObject({
      type: z.literal('aws-rds-token'),
      region: z.string().optional().describe('Default: as the AWS SDK finds it (AWS_REGION, profile).'),
      ...fetching,
    })
    .describe(
      'Sign-in tokens for RDS and Aurora with IAM authentication, PostgreSQL and MySQL: use it as `token` of launch credentials. `NAME:HOST:PORT/USERNAME`.',
    ),
  z
    .strictObject({
      type: z.literal('keeper'),
      config: secretReference
        .optional()
        .describe('Reference to the device configuration (base64 or JSON), in another provider.'),
      config_file: z
        .string()
        .optional()
        .describe('File with the device configuration (JSON). It is written when keys change.'),
      ...fetching,
    })
    .describe(
      "Keeper Secrets Manager. `NAME:UID` or `NAME:TITLE` with the record's fields, or Keeper notation: `NAME:UID/field/password`.",
    ),
  z
    .strictObject({
      type: z.literal('azure-key-vault'),
      vault_url: httpAddress.describe('`https://VAULT.vault.azure.net`'),
      auth: azureAuth,
      authority: httpAddress
        .default('https://login.microsoftonline.com')
        .describe('Where Entra ID signs applications in; differs in national clouds.'),
      ...fetching,
    })
    .describe('Azure Key Vault. `NAME:SECRET[/VERSION][#FIELD]`.'),
  z
    .strictObject({
      type: z.literal('google-secret-manager'),
      project: z.string().describe('The project that secrets are taken from.'),
      auth: googleAuth,
      endpoint: httpAddress
        .default('https://secretmanager.googleapis.com')
        .describe('Another endpoint: regional, or for a test.'),
      ...fetching,
    })
    .describe('Google Secret Manager. `NAME:SECRET[/versions/VERSION][#FIELD]`.'),
]);

export const configSchema = z.strictObject({
  gateway: z
    .strictObject({
      name: z
        .string()
        .min(1)
        .max(64)
        .default('sallyport')
        .describe('Name of this gateway in records and metrics.'),
      data_dir: z.string().default('./var/sallyport').describe('Where journal, keys and state are kept.'),
      workers: z
        .union([z.literal('auto'), z.int().min(1).max(64)])
        .default(1)
        .describe(
          'Processes that serve the listeners. `1`: the gateway is one process. More: that many beside the one for HTTP, tunnels and recordings; `auto`: one for each core.',
        ),
      shutdown_grace: duration
        .prefault('30s')
        .describe('How long running statements may go on after SIGTERM.'),
      peers: z
        .array(z.url({ protocol: /^https?$/ }))
        .max(32)
        .default([])
        .describe(
          'URLs of the HTTP addresses of the other gateways behind the same address, which are asked about cancel requests.',
        ),
      peer_secret: secretReference
        .optional()
        .describe('Reference to the secret that these gateways share. Needed with `peers`.'),
      peer_ca: z.string().optional().describe("File with the authorities of the peers' certificates (PEM)."),
    })
    .prefault({}),
  http: z
    .strictObject({
      listen: listenAddress
        .prefault('127.0.0.1:7070')
        .describe('Address of health, metrics, API and tunnels.'),
      tls: z
        .strictObject({
          cert: z.string().describe('File with the certificate chain (PEM).'),
          key: z.string().describe('File with its key (PEM).'),
        })
        .optional()
        .describe('Serve HTTPS. Default: HTTP, for loopback addresses or behind a proxy that encrypts.'),
      public_url: z
        .url({ protocol: /^https?$/ })
        .optional()
        .describe('How people reach it, where that is not `listen`: for OIDC redirects and printed lines.'),
    })
    .prefault({}),
  secrets: z
    .record(z.string().regex(/^[a-z][a-z0-9_-]*$/), providerSchema)
    .default({})
    .describe('Secret providers by name.'),
  recording: recordingSchema,
  resources: z
    .record(z.string().regex(/^[a-zA-Z][a-zA-Z0-9_.-]*$/), resourceSchema)
    .describe('Databases by name.'),
  users: z
    .record(z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9_.@-]*$/), userSchema)
    .default({})
    .describe('Local users by name.'),
  oidc: oidcSchema.optional(),
  rules: z
    .array(ruleSchema)
    .max(10_000)
    .default([])
    .describe(
      'Who may reach what. Nobody may reach a resource by launch, token, tunnel or certificate unless a rule says so; the first that fits decides. Listeners with `client_auth: trust` need none.',
    ),
  api: apiSchema.prefault({}),
  listeners: z.array(listenerSchema).default([]).describe('Addresses that serve resources directly.'),
});

export type Config = z.output<typeof configSchema>;
export type ResourceConfig = z.output<typeof resourceSchema>;
export type ListenerConfig = z.output<typeof listenerSchema>;
export type ProviderConfig = z.output<typeof providerSchema>;
export type UserConfig = z.output<typeof userSchema>;
export type OidcConfig = z.output<typeof oidcSchema>;
