import { randomBytes } from 'node:crypto';
import { type DoubleAnswer, type DoubleRequest, type HttpDouble, startHttpDouble } from './http-double.ts';

/**
 * A double of Vault's and OpenBao's HTTP API, written from their API documentation (sys/health, sys/internal/ui/mounts,
 * auth/approle, auth/kubernetes, auth/jwt, auth/token, secrets/kv v1 and v2, secrets/databases, sys/leases). No code of
 * theirs runs here.
 */
export interface VaultDouble extends HttpDouble {
  readonly vault: VaultState;
}

export interface VaultState {
  /** Mount `secret/` (version 2) and `kv/` (version 1): what they hold by path. */
  readonly kv: Map<string, Record<string, unknown>>;
  readonly leases: Map<string, VaultDoubleLease>;
  readonly tokens: Map<string, VaultDoubleToken>;
  readonly roleId: string;
  readonly secretId: string;
  /** What the kubernetes and jwt methods take. */
  readonly jwt: string;
  sealed: boolean;
  /** Paths that no token may use. */
  readonly denied: Set<string>;
  leaseSeconds: number;
  leaseSecondsMax: number;
  tokenSeconds: number;
  newToken(): string;
}

export interface VaultDoubleLease {
  readonly role: string;
  readonly username: string;
  readonly token: string;
  readonly issued: number;
  expires: number;
  renewals: number;
  revoked: boolean;
}

export interface VaultDoubleToken {
  expires: number;
  renewals: number;
  revoked: boolean;
}

export async function startVaultDouble(tls?: { cert: string; key: string }): Promise<VaultDouble> {
  const state: VaultState = {
    kv: new Map<string, Record<string, unknown>>(),
    leases: new Map<string, VaultDoubleLease>(),
    tokens: new Map<string, VaultDoubleToken>(),
    roleId: randomBytes(8).toString('hex'),
    secretId: randomBytes(8).toString('hex'),
    jwt: `header.${randomBytes(8).toString('hex')}.signature`,
    sealed: false,
    denied: new Set<string>(),
    leaseSeconds: 3600,
    leaseSecondsMax: 86_400,
    tokenSeconds: 3600,
    newToken: (): string => {
      const token = `hvs.${randomBytes(12).toString('hex')}`;
      state.tokens.set(token, {
        expires: Date.now() + state.tokenSeconds * 1000,
        renewals: 0,
        revoked: false,
      });
      return token;
    },
  };
  const double = await startHttpDouble((request) => answer(request, state), tls);
  return Object.assign(double, { vault: state });
}

function answer(request: DoubleRequest, state: VaultState): DoubleAnswer {
  const path = request.url.pathname.replace(/^\/v1\//, '');
  if (path === 'sys/health') return { status: state.sealed ? 503 : 200, body: { sealed: state.sealed } };
  if (state.sealed) return errors(503, 'Vault is sealed');
  const body = request.body.length > 0 ? (JSON.parse(request.body.toString()) as Record<string, string>) : {};
  if (/^auth\/[^/]+\/login$/.test(path)) return login(path, body, state);
  const token = String(request.headers['x-vault-token'] ?? '');
  const known = state.tokens.get(token);
  if (!known || known.revoked || known.expires < Date.now())
    return errors(403, 'permission denied', 'invalid token');
  if (state.denied.has(path)) return errors(403, '1 error occurred:\n\t* permission denied\n\n');
  if (path === 'auth/token/lookup-self')
    return { status: 200, body: { data: { ttl: 1, policies: ['default'] } } };
  if (path === 'auth/token/renew-self') {
    known.renewals += 1;
    known.expires = Date.now() + state.tokenSeconds * 1000;
    return { status: 200, body: { auth: { lease_duration: state.tokenSeconds, renewable: true } } };
  }
  if (path === 'auth/token/revoke-self') {
    known.revoked = true;
    for (const lease of state.leases.values()) if (lease.token === token) lease.revoked = true;
    return { status: 204 };
  }
  if (path.startsWith('sys/internal/ui/mounts/')) return mount(path.slice('sys/internal/ui/mounts/'.length));
  if (path.startsWith('sys/leases/')) return leases(path, body, state);
  if (path.startsWith('database/creds/')) return account(path, token, state);
  if (path.startsWith('database/static-creds/')) {
    const stored = state.kv.get(path);
    return stored
      ? { status: 200, body: { lease_id: '', lease_duration: 0, data: stored } }
      : errors(400, 'unknown role');
  }
  return keyValue(path, state);
}

function login(path: string, body: Record<string, string>, state: VaultState): DoubleAnswer {
  const isRight =
    path === 'auth/approle/login'
      ? body['role_id'] === state.roleId && body['secret_id'] === state.secretId
      : body['role'] === 'sallyport' && body['jwt'] === state.jwt;
  if (!isRight) return errors(400, 'invalid role or secret ID');
  return {
    status: 200,
    body: { auth: { client_token: state.newToken(), lease_duration: state.tokenSeconds, renewable: true } },
  };
}

function mount(path: string): DoubleAnswer {
  const found = [
    { path: 'secret/', type: 'kv', options: { version: '2' } },
    { path: 'kv/', type: 'kv', options: { version: '1' } },
    { path: 'database/', type: 'database', options: null },
  ].find((one) => path.startsWith(one.path));
  return found
    ? { status: 200, body: { data: found } }
    : errors(403, 'preflight capability check returned 403');
}

function leases(path: string, body: Record<string, string>, state: VaultState): DoubleAnswer {
  const lease = state.leases.get(body['lease_id'] ?? '');
  if (!lease || lease.revoked) return errors(400, 'lease not found');
  if (path === 'sys/leases/revoke') {
    lease.revoked = true;
    return { status: 204 };
  }
  const end = lease.issued + state.leaseSecondsMax * 1000;
  if (lease.expires < Date.now() || end <= Date.now()) return errors(400, 'lease expired');
  lease.renewals += 1;
  lease.expires = Math.min(Date.now() + state.leaseSeconds * 1000, end);
  const seconds = Math.floor((lease.expires - Date.now()) / 1000);
  return { status: 200, body: { lease_id: body['lease_id'], renewable: true, lease_duration: seconds } };
}

function account(path: string, token: string, state: VaultState): DoubleAnswer {
  const role = path.slice('database/creds/'.length);
  const stored = state.kv.get(path);
  if (!stored) return errors(400, `unknown role: ${role}`);
  const id = `${path}/${randomBytes(8).toString('hex')}`;
  const username = `v-${role}-${state.leases.size}`;
  const now = Date.now();
  state.leases.set(id, {
    role,
    username,
    token,
    issued: now,
    expires: now + state.leaseSeconds * 1000,
    renewals: 0,
    revoked: false,
  });
  return {
    status: 200,
    body: {
      lease_id: id,
      renewable: true,
      lease_duration: state.leaseSeconds,
      data: { ...stored, username },
    },
  };
}

function keyValue(path: string, state: VaultState): DoubleAnswer {
  const isVersion2 = path.startsWith('secret/');
  if (isVersion2 && !path.startsWith('secret/data/'))
    return {
      status: 404,
      body: { errors: [], warnings: ['Invalid path for a versioned K/V secrets engine.'] },
    };
  const stored = state.kv.get(path.replace(/^secret\/data\//, 'secret/'));
  if (!stored) return { status: 404, body: { errors: [] } };
  const data = isVersion2 ? { data: stored, metadata: { version: 1, deletion_time: '' } } : stored;
  return {
    status: 200,
    body: { lease_id: '', lease_duration: isVersion2 ? 0 : 2_764_800, renewable: false, data },
  };
}

function errors(status: number, ...texts: string[]): DoubleAnswer {
  return { status, body: { errors: texts } };
}
