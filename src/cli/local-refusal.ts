import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import type { Address } from '../../protocols/channel.ts';
import type { Entry, Resource } from '../../protocols/engine.ts';
import { Refusal } from '../../protocols/error.ts';
import { ENGINE_OF_TYPE } from '../config/resources.ts';
import { type ChannelTls, NO_TLS, StreamChannel } from '../gateway/channel.ts';
import { localCertificate } from '../gateway/local-certificate.ts';
import { listenerTls } from '../gateway/tls-context.ts';
import type { LocalRefusal } from '../tunnel/client.ts';
import type { ResourceType } from '../tunnel/messages.ts';
import { tunnelsFolder } from './tunnel-registry.ts';

/** A tool has this long to say who it is, so that it can be told no. */
const REFUSAL_MS_MAX = 5_000;
/** Tools that are being told no at once; beyond, connections are just closed. */
const REFUSALS_MAX = 100;

let refusing = 0;

/**
 * Tells the tool on a local connection, in its own protocol, why it cannot be served: so that it shows a sentence, and not
 * that "the server closed the connection unexpectedly". Then closes.
 */
export function refuseLocally(socket: Socket, refusal: LocalRefusal, type: ResourceType): void {
  if (refusing >= REFUSALS_MAX) {
    socket.destroy();
    return;
  }
  refusing += 1;
  const deadline = setTimeout(() => socket.destroy(), REFUSAL_MS_MAX);
  socket.once('close', () => {
    refusing -= 1;
    clearTimeout(deadline);
  });
  void speak(socket, refusal, type)
    .catch(() => {})
    .finally(() => socket.destroySoon());
}

async function speak(socket: Socket, { message, hint }: LocalRefusal, type: ResourceType): Promise<void> {
  const { loadEngine } = await import('../doors.ts');
  const engine = await loadEngine(ENGINE_OF_TYPE[type]);
  const tls = type === 'sqlserver' ? await ownTls() : NO_TLS;
  const remote: Address = { host: socket.remoteAddress ?? 'local', port: socket.remotePort ?? 0 };
  const channel = new StreamChannel(socket, 'client', remote, tls);
  const no = async (): Promise<never> => {
    throw new Refusal('server_unreachable', message, { ...(hint === null ? {} : { hint }) });
  };
  const entry: Entry = {
    client: channel,
    resource: type === 'sqlserver' ? SQL_SERVER : null,
    challenge: no,
    admit: no,
    credentials: no,
    dial: no,
    opened: no,
    cancelKey: (_id, length) => randomBytes(length),
    cancel: async () => {},
    random: randomBytes,
    log: () => {},
  };
  await engine.handshake(entry).catch(() => {});
  await channel.drained(REFUSAL_MS_MAX);
}

/** Enough of a resource for the engine to speak with drivers that encrypt and with those that do not. */
const SQL_SERVER: Resource = {
  name: 'the gateway',
  engine: 'tds',
  addresses: [{ host: 'gateway', port: 0 }],
  settings: {
    engine: 'tds',
    encryption: 'off',
    clientEncryption: 'login',
    mars: false,
    windowsDomain: null,
    serverName: null,
  },
};

let certificate: Promise<ChannelTls> | null = null;

function ownTls(): Promise<ChannelTls> {
  certificate ??= localCertificate(tunnelsFolder()).then((files) =>
    listenerTls({ mode: 'prefer', ...files }),
  );
  return certificate;
}
