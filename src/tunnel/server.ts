import { type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Address } from '../../protocols/channel.ts';
import type { EngineName } from '../../protocols/engine.ts';
import type { Principal } from '../access/principal.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { AuditEvent } from '../recording/recorder.ts';
import type { StoredLaunch } from '../store/state.ts';
import { Heartbeats } from './heartbeats.ts';
import {
  CLOSE_MS_MAX,
  CONNECTIONS_PER_PRINCIPAL_MAX,
  CONTROL_BYTES_MAX,
  CONTROL_MESSAGES_MAX,
  HANDSHAKES_MAX,
  MESSAGE_BYTES_MAX,
  PING_MS,
  TUNNELS_PER_PRINCIPAL_MAX,
} from './limits.ts';
import {
  CloseCode,
  type GatewayMessage,
  parseMessage,
  type ResourceType,
  SUBPROTOCOL,
  TUNNEL_PATH,
  type TunnelRole,
  tunnelMessage,
} from './messages.ts';
import { TunnelStream } from './stream.ts';

/** A resource as its tunnels are told of it. */
export interface TunnelResource {
  readonly type: ResourceType;
  readonly engine: EngineName;
  readonly database: string | null;
  /** The account that Sallyport signs in as, where the configuration names it. */
  readonly account: string | null;
}

export interface TunnelServerPorts {
  readonly gateway: string;
  /** Who a bearer token belongs to; null for nobody. */
  readonly principal: (token: string) => Principal | null;
  /** A launch that is known here, running or ended. */
  readonly launch: (id: string) => StoredLaunch | null;
  readonly endLaunch: (id: string, by: string) => void;
  readonly resource: (name: string) => TunnelResource | null;
  /** Takes one connection of a launch; resolves when its sign-in is over. Never rejects. */
  readonly serve: (launch: StoredLaunch, stream: Duplex, remote: Address) => Promise<void>;
  readonly draining: () => boolean;
  readonly audit: (event: AuditEvent) => void;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly now: () => number;
  /** Milliseconds between pings; for tests. */
  readonly pingMs?: number;
}

/** An upgrade that was let in: whose it is, and what for. */
interface Visit {
  readonly principal: string;
  readonly launch: StoredLaunch;
  readonly resource: TunnelResource;
  readonly role: TunnelRole;
  readonly remote: Address;
}

/** Why an upgrade is refused, as HTTP says it. */
interface UpgradeRefusal {
  readonly status: number;
  readonly error: string;
  readonly message: string;
  readonly hint: string | null;
}

interface Count {
  tunnels: number;
  connections: number;
}

/**
 * The gateway's end of all tunnels: takes WebSocket upgrades at `/tunnel`. Each is authorised by the login of the one who
 * opens it, and belongs to a launch of theirs; what passes through it after that is a client like any other.
 */
export class TunnelServer {
  readonly #ports: TunnelServerPorts;
  readonly #connections: WebSocketServer;
  readonly #controls: WebSocketServer;
  readonly #heartbeats: Heartbeats;
  /** The control channel of each launch that has one here. */
  readonly #tunnels = new Map<string, { socket: WebSocket; visit: Visit }>();
  readonly #sockets = new Set<WebSocket>();
  readonly #counts = new Map<string, Count>();
  #handshaking = 0;
  #stopping = false;

  constructor(ports: TunnelServerPorts) {
    this.#ports = ports;
    const common = { noServer: true, perMessageDeflate: false, clientTracking: false };
    this.#connections = new WebSocketServer({ ...common, maxPayload: MESSAGE_BYTES_MAX });
    this.#controls = new WebSocketServer({ ...common, maxPayload: CONTROL_BYTES_MAX });
    this.#heartbeats = new Heartbeats(ports.pingMs ?? PING_MS);
  }

  /** Takes the upgrades of an HTTP server to WebSocket; requests to upgrade to anything else are answered as if they had not. */
  attach(server: Server): void {
    const upgrading = server as Server & { shouldUpgradeCallback?: (request: IncomingMessage) => boolean };
    upgrading.shouldUpgradeCallback = ({ headers }) => headers.upgrade?.toLowerCase() === 'websocket';
    server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      socket.on('error', () => socket.destroy());
      const visit = this.#visit(request);
      if ('status' in visit) {
        this.#ports.metrics.tunnelRefusalsTotal.inc({ code: visit.error });
        refuse(socket, visit);
      } else if (visit.role === 'control')
        this.#controls.handleUpgrade(request, socket, head, (opened) => this.#control(opened, visit));
      else this.#connections.handleUpgrade(request, socket, head, (opened) => this.#connect(opened, visit));
    });
  }

  /** A launch is over: its tunnel hears why. Its connections are the gateway's to end. */
  launchEnded(launch: string, message: string): void {
    const tunnel = this.#tunnels.get(launch);
    if (tunnel === undefined) return;
    send(tunnel.socket, { type: 'launch_ended', message });
    tunnel.socket.close(CloseCode.launchEnded);
  }

  /** Tells all tunnels that the gateway is going to stop. */
  drain(): void {
    for (const { socket } of this.#tunnels.values()) send(socket, { type: 'draining' });
  }

  /** Closes what is left; resolves when all is closed. */
  async close(): Promise<void> {
    this.#stopping = true;
    this.#heartbeats.stop();
    for (const socket of this.#sockets) socket.close(CloseCode.restart);
    if (this.#sockets.size > 0) {
      const closed = [...this.#sockets].map((socket) => new Promise((done) => socket.once('close', done)));
      const deadline = setTimeout(() => {
        for (const socket of this.#sockets) socket.terminate();
      }, CLOSE_MS_MAX);
      await Promise.all(closed);
      clearTimeout(deadline);
    }
  }

  #visit(request: IncomingMessage): Visit | UpgradeRefusal {
    try {
      return this.#authorise(request);
    } catch (error) {
      this.#ports.log.error({ error: (error as Error).message }, 'a tunnel could not be authorised');
      return refusal(500, 'internal', 'something went wrong in the gateway');
    }
  }

  #authorise(request: IncomingMessage): Visit | UpgradeRefusal {
    const { principal: principalOf, draining, launch: launchOf, resource: resourceOf, now } = this.#ports;
    const url = new URL(request.url ?? '/', 'http://gateway');
    if (url.pathname !== `/${TUNNEL_PATH}`) return refusal(404, 'not_found', 'there is nothing here');
    // Browsers name the page that asks, and nothing else does: no page may use a person's login.
    if (request.headers.origin !== undefined)
      return refusal(403, 'origin_refused', 'tunnels are not for browsers');
    const protocols = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
    if (!protocols.includes(SUBPROTOCOL))
      return refusal(
        426,
        'version_unknown',
        `this gateway speaks ${SUBPROTOCOL}`,
        'Use the sallyport command of its version.',
      );
    if (draining() || this.#stopping) return refusal(503, 'draining', 'the gateway is shutting down');
    const token = /^Bearer ([\x21-\x7e]{1,4096})$/i.exec(request.headers.authorization ?? '')?.[1];
    const principal = token === undefined ? null : principalOf(token);
    if (principal === null)
      return refusal(
        401,
        'login_required',
        `your login is not known to ${this.#ports.gateway}, or has ended`,
        'Log in: sallyport login',
      );
    const launch = launchOf(url.searchParams.get('launch') ?? '');
    // Whether a launch of somebody else exists is nobody's business.
    if (launch === null || launch.principal !== principal.name)
      return this.#refused(
        principal,
        request,
        null,
        refusal(
          404,
          'launch_unknown',
          `${this.#ports.gateway} knows no such launch of yours`,
          'Open the tunnel anew. Where several gateways share an address, each must see the same state, or the balancer must keep a person on one of them (docs/tunnels.md).',
        ),
      );
    if (launch.endedAt !== null || launch.expiresAt <= now())
      return refusal(410, 'launch_ended', endText(launch), 'Open the tunnel anew.');
    const resource = resourceOf(launch.resource);
    if (resource === null)
      return this.#refused(
        principal,
        request,
        launch.resource,
        refusal(410, 'resource_unknown', `there is no resource "${launch.resource}" any more`),
      );
    const role = url.searchParams.get('role');
    if (role !== 'control' && role !== 'connection')
      return refusal(400, 'bad_request', 'a tunnel needs role=control or role=connection');
    const full = this.#full(principal.name, role);
    if (full !== null) return this.#refused(principal, request, launch.resource, full);
    return { principal: principal.name, launch, resource, role, remote: remoteOf(request) };
  }

  #full(principal: string, role: TunnelRole): UpgradeRefusal | null {
    const count = this.#counts.get(principal);
    if (role === 'control')
      return (count?.tunnels ?? 0) < TUNNELS_PER_PRINCIPAL_MAX
        ? null
        : refusal(429, 'rate_limited', `you have ${TUNNELS_PER_PRINCIPAL_MAX} tunnels open`, 'Close one.');
    if (this.#handshaking >= HANDSHAKES_MAX)
      return refusal(503, 'rate_limited', 'too many connections are signing in at once', 'Try again.');
    if ((count?.connections ?? 0) < CONNECTIONS_PER_PRINCIPAL_MAX) return null;
    return refusal(
      429,
      'rate_limited',
      `you have ${CONNECTIONS_PER_PRINCIPAL_MAX} connections open through tunnels`,
      'Close some.',
    );
  }

  #refused(
    principal: Principal,
    request: IncomingMessage,
    resource: string | null,
    why: UpgradeRefusal,
  ): UpgradeRefusal {
    this.#ports.audit({
      action: 'tunnel_refused',
      principal: principal.name,
      resource,
      clientAddress: addressText(remoteOf(request)),
      reason: why.error,
    });
    return why;
  }

  /** Counts a WebSocket from its opening to its end. */
  #track(socket: WebSocket, principal: string, what: keyof Count): void {
    const count = this.#counts.get(principal) ?? { tunnels: 0, connections: 0 };
    this.#counts.set(principal, count);
    count[what] += 1;
    this.#sockets.add(socket);
    this.#heartbeats.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      count[what] -= 1;
      if (count.tunnels === 0 && count.connections === 0) this.#counts.delete(principal);
    });
  }

  #connect(socket: WebSocket, visit: Visit): void {
    const { metrics, serve } = this.#ports;
    const labels = { resource: visit.launch.resource, engine: visit.resource.engine };
    this.#track(socket, visit.principal, 'connections');
    metrics.tunnelConnectionsOpen.inc(labels);
    socket.once('close', () => metrics.tunnelConnectionsOpen.dec(labels));
    this.#handshaking += 1;
    void serve(visit.launch, new TunnelStream(socket), visit.remote).finally(() => {
      this.#handshaking -= 1;
    });
  }

  #control(socket: WebSocket, visit: Visit): void {
    const { metrics, log, gateway } = this.#ports;
    const { launch, resource } = visit;
    const labels = { resource: launch.resource, engine: resource.engine };
    this.#track(socket, visit.principal, 'tunnels');
    metrics.tunnelsOpen.inc(labels);
    this.#tunnels.get(launch.id)?.socket.close(CloseCode.replaced);
    this.#tunnels.set(launch.id, { socket, visit });
    this.#audit('tunnel_opened', visit, null);
    log.info({ resource: launch.resource, principal: visit.principal, launch: launch.id }, 'tunnel opened');
    socket.on('error', (error) => log.debug({ launch: launch.id, error: error.message }, 'tunnel failed'));
    let messages = 0;
    socket.on('ping', () => {
      messages = 0;
    });
    socket.on('message', (data, isBinary) => {
      messages += 1;
      if (isBinary || messages > CONTROL_MESSAGES_MAX) socket.close(CloseCode.violation);
      else this.#told(String(data), visit);
    });
    socket.once('close', (code) => {
      metrics.tunnelsOpen.dec(labels);
      if (this.#tunnels.get(launch.id)?.socket === socket) this.#tunnels.delete(launch.id);
      this.#audit('tunnel_closed', visit, closeText(code));
    });
    send(socket, {
      type: 'hello',
      gateway,
      launch: launch.id,
      principal: visit.principal,
      resource: launch.resource,
      resource_type: resource.type,
      database: launch.databases?.[0] ?? resource.database,
      account: resource.account,
      read_only: launch.readOnly,
      requires_token: launch.verifier !== null,
      expires_at: new Date(launch.expiresAt).toISOString(),
    });
  }

  #told(text: string, visit: Visit): void {
    const message = parseMessage(tunnelMessage, text);
    // A newer tunnel may say more than is understood here.
    if (message === null) return;
    if (message.type === 'close') {
      if (!this.#stopping) this.#ports.endLaunch(visit.launch.id, visit.principal);
    } else
      this.#audit('tunnel_local_refused', visit, 'another user of the machine', {
        uid: message.uid,
        count: message.count,
      });
  }

  #audit(
    action: string,
    { principal, launch, remote }: Visit,
    reason: string | null,
    detail: Readonly<Record<string, string | number | null>> = {},
  ): void {
    this.#ports.audit({
      action,
      principal,
      resource: launch.resource,
      clientAddress: addressText(remote),
      reason,
      detail: { launch: launch.id, ...detail },
    });
  }
}

function send(socket: WebSocket, message: GatewayMessage): void {
  if (socket.readyState === socket.OPEN) socket.send(JSON.stringify(message));
}

function refusal(status: number, error: string, message: string, hint: string | null = null): UpgradeRefusal {
  return { status, error, message, hint };
}

/** Answers an upgrade with a status of HTTP, and closes. */
function refuse(socket: Duplex, { status, ...said }: UpgradeRefusal): void {
  const body = JSON.stringify(said);
  socket.end(
    [
      `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Refused'}`,
      'connection: close',
      'content-type: application/json',
      `content-length: ${Buffer.byteLength(body)}`,
      ...(status === 401 ? ['www-authenticate: Bearer'] : []),
      'cache-control: no-store',
      '',
      body,
    ].join('\r\n'),
    () => socket.destroy(),
  );
}

function endText(launch: StoredLaunch): string {
  switch (launch.endReason) {
    case 'revoked':
      return 'your launch was revoked';
    case 'checked_in':
      return 'your launch has ended: it was checked in';
    case 'tunnel_closed':
      return 'your launch has ended: its tunnel was closed';
    default:
      return 'your launch has ended: its time is up';
  }
}

function closeText(code: number): string {
  switch (code) {
    case CloseCode.done:
      return 'closed';
    case CloseCode.launchEnded:
      return 'launch ended';
    case CloseCode.replaced:
      return 'replaced by a newer one';
    case CloseCode.restart:
      return 'gateway stopped';
    case CloseCode.violation:
      return 'protocol violated';
    default:
      return 'connection lost';
  }
}

function remoteOf(request: IncomingMessage): Address {
  const { remoteAddress, remotePort } = request.socket;
  return { host: remoteAddress ?? 'local', port: remotePort ?? 0 };
}

function addressText({ host, port }: Address): string {
  if (port === 0) return host;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
