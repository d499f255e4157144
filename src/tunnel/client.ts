import type { Socket } from 'node:net';
import type { WebSocket } from 'ws';
import { Heartbeats } from './heartbeats.ts';
import {
  DIAL_MS_MAX,
  DIALS_AT_ONCE_MAX,
  DIALS_MAX,
  LOCAL_REFUSALS_TOLD_MS,
  PING_MS,
  RECONNECT_MS_MAX,
  RECONNECT_MS_MIN,
} from './limits.ts';
import { LinkError, type LinkOptions, openLink } from './link.ts';
import { type LocalListener, type LocalPlace, type LocalWish, listenLocally } from './local-listener.ts';
import {
  CloseCode,
  gatewayMessage,
  type Hello,
  parseMessage,
  type ResourceType,
  type TunnelMessage,
} from './messages.ts';
import { Peers } from './peers.ts';
import { TunnelStream } from './stream.ts';

/** Why a local connection is turned away, for the tool that made it. */
export interface LocalRefusal {
  readonly message: string;
  readonly hint: string | null;
}

export interface TunnelOptions extends LinkOptions {
  readonly wish: LocalWish;
  /** Let only this user's own processes in, where the system tells whose they are. */
  readonly ownOnly: boolean;
  /** Says no to a tool in its own protocol, and closes the connection. */
  readonly refuse: (socket: Socket, refusal: LocalRefusal, type: ResourceType) => void;
  readonly events: TunnelEvents;
  readonly random?: () => number;
  readonly pingMs?: number;
}

/** What happens to a tunnel while it is open. */
export interface TunnelEvents {
  /** The gateway cannot be reached at the moment; connections that are open may go on. */
  lost(why: string): void;
  back(): void;
  draining(): void;
  /** Another user of this machine tried to use the tunnel. */
  refusedLocally(uid: number): void;
  /** A local connection could not be carried. */
  failed(why: string): void;
  /** The tunnel has ended, and not because `close` was called. */
  ended(why: string): void;
}

/**
 * The person's end of a tunnel: a local listener, a control channel that comes back when it is lost, and a WebSocket for
 * each local connection, none of which depends on another.
 */
export class Tunnel {
  readonly hello: Hello;
  readonly #options: TunnelOptions;
  readonly #peers = new Peers();
  readonly #heartbeats: Heartbeats;
  readonly #open = new Set<Socket>();
  #listener!: LocalListener;
  #control: WebSocket | null;
  #checksPeers = false;
  #state: 'open' | 'ended' | 'closed' = 'open';
  #endText = '';
  #retry: NodeJS.Timeout | null = null;
  #attempts = 0;
  #waiting = 0;
  #dialling = 0;
  readonly #queue: (() => void)[] = [];
  #refusedUid = 0;
  #refusedCount = 0;
  #refusedTimer: NodeJS.Timeout | null = null;
  #emptied: (() => void) | null = null;

  /** Use `Tunnel.open`. */
  private constructor(options: TunnelOptions, control: WebSocket, hello: Hello, heartbeats: Heartbeats) {
    this.#options = options;
    this.#control = control;
    this.hello = hello;
    this.#heartbeats = heartbeats;
  }

  /**
   * Opens the control channel, then the local listener. Rejects with a `LinkError` when the gateway cannot be reached or
   * says no, and with what `listenLocally` says.
   */
  static async open(options: TunnelOptions): Promise<Tunnel> {
    const heartbeats = new Heartbeats(options.pingMs ?? PING_MS);
    try {
      const { socket, hello } = await openControl(options, heartbeats);
      const tunnel = new Tunnel(options, socket, hello, heartbeats);
      tunnel.#checksPeers = options.ownOnly && options.wish.kind !== 'unix' && (await tunnel.#peers.tells());
      tunnel.#watch(socket);
      try {
        tunnel.#listener = await listenLocally(options.wish, (local) => tunnel.#accept(local));
      } catch (error) {
        await tunnel.close();
        throw error;
      }
      return tunnel;
    } catch (error) {
      heartbeats.stop();
      throw error;
    }
  }

  get place(): LocalPlace {
    return this.#listener.place;
  }

  /** Whether only this user's own processes are let in (by the file's mode, or by asking the system). */
  get ownOnly(): boolean {
    return this.#checksPeers || this.place.kind === 'unix';
  }

  get connections(): number {
    return this.#open.size;
  }

  /**
   * Ends the tunnel and its launch. Connections hear of it in their own protocol from the gateway, and have `graceMs` to
   * close. Resolves when everything is closed.
   */
  async close(graceMs = 2_000): Promise<void> {
    const wasOpen = this.#state === 'open';
    this.#state = 'closed';
    this.#listener?.close();
    if (this.#retry !== null) clearTimeout(this.#retry);
    const control = this.#control;
    if (control !== null && control.readyState === control.OPEN) {
      const told = new Promise((resolve) => control.once('close', resolve));
      if (wasOpen) say(control, { type: 'close' });
      else control.close(CloseCode.done);
      await Promise.race([told, after(graceMs)]);
      control.terminate();
    }
    if (this.#open.size > 0) {
      const emptied = new Promise<void>((resolve) => {
        this.#emptied = resolve;
      });
      await Promise.race([emptied, after(graceMs)]);
    }
    for (const local of this.#open) local.destroy();
    if (this.#refusedTimer !== null) clearTimeout(this.#refusedTimer);
    this.#heartbeats.stop();
  }

  // The control channel

  #watch(socket: WebSocket): void {
    this.#control = socket;
    socket.on('message', (data) => {
      const message = parseMessage(gatewayMessage, String(data));
      if (message?.type === 'launch_ended') this.#end(message.message);
      else if (message?.type === 'draining') this.#options.events.draining();
    });
    socket.once('close', (code) => {
      this.#control = null;
      if (this.#state !== 'open') return;
      if (code === CloseCode.replaced) this.#end('another process has taken this tunnel over');
      else {
        this.#options.events.lost('the connection to the gateway broke off');
        this.#reconnect();
      }
    });
    socket.resume();
    this.#tellRefusals();
  }

  #reconnect(): void {
    const { random = Math.random } = this.#options;
    const longest = Math.min(RECONNECT_MS_MAX, RECONNECT_MS_MIN * 2 ** this.#attempts);
    this.#attempts += 1;
    // Half of it is left to chance, so that tunnels that were lost together do not come back together.
    const wait = longest / 2 + (random() * longest) / 2;
    this.#retry = setTimeout(() => void this.#tryAgain(), wait);
  }

  async #tryAgain(): Promise<void> {
    try {
      const { socket } = await openControl(this.#options, this.#heartbeats);
      if (this.#state !== 'open') {
        socket.terminate();
        return;
      }
      this.#attempts = 0;
      this.#watch(socket);
      this.#options.events.back();
    } catch (error) {
      if (this.#state !== 'open') return;
      if (error instanceof LinkError && error.isFinal) this.#end(error.message);
      else {
        if (error instanceof LinkError && error.status !== null)
          this.#options.events.lost(error.hint === null ? error.message : `${error.message}. ${error.hint}`);
        this.#reconnect();
      }
    }
  }

  #end(why: string): void {
    if (this.#state !== 'open') return;
    this.#state = 'ended';
    this.#endText = why;
    this.#options.events.ended(why);
  }

  // Local connections

  #accept(local: Socket): void {
    this.#open.add(local);
    local.on('error', () => {});
    local.once('close', () => {
      this.#open.delete(local);
      if (this.#open.size === 0) this.#emptied?.();
    });
    void this.#carry(local).catch((error: unknown) => {
      const { events } = this.#options;
      const isLink = error instanceof LinkError;
      const message = isLink ? error.message : `the tunnel failed: ${(error as Error).message}`;
      events.failed(message);
      this.#refuse(local, message, isLink ? error.hint : null);
    });
  }

  async #carry(local: Socket): Promise<void> {
    if (this.#checksPeers) {
      const uid = await this.#peers.owner(local);
      // Whoever is gone already can be neither asked nor told.
      if (uid === null) {
        local.destroy();
        return;
      }
      if (uid !== process.getuid?.()) {
        this.#refusedLocally(uid);
        this.#refuse(local, 'this tunnel belongs to another user of this machine', 'Open one of your own.');
        return;
      }
    }
    if (this.#state !== 'open') {
      this.#refuse(local, this.#endText || 'this tunnel is closing', 'Open the tunnel anew.');
      return;
    }
    if (this.#waiting >= DIALS_MAX) {
      local.destroy();
      return;
    }
    this.#waiting += 1;
    let socket: WebSocket;
    try {
      await this.#turn();
      try {
        if (local.destroyed) return;
        socket = await openLink(this.#options, 'connection');
      } finally {
        this.#dialling -= 1;
        this.#queue.shift()?.();
      }
    } finally {
      this.#waiting -= 1;
    }
    this.#heartbeats.add(socket);
    join(local, new TunnelStream(socket));
  }

  /** Resolves when one more connection may dial. */
  async #turn(): Promise<void> {
    if (this.#dialling >= DIALS_AT_ONCE_MAX)
      await new Promise<void>((resolve) => {
        this.#queue.push(resolve);
      });
    this.#dialling += 1;
  }

  #refuse(local: Socket, message: string, hint: string | null): void {
    if (!local.destroyed) this.#options.refuse(local, { message, hint }, this.hello.resource_type);
  }

  /** The person is told at once, the gateway from time to time. */
  #refusedLocally(uid: number): void {
    this.#options.events.refusedLocally(uid);
    this.#refusedUid = uid;
    this.#refusedCount += 1;
    if (this.#refusedTimer !== null) return;
    this.#tellRefusals();
    this.#refusedTimer = setTimeout(() => {
      this.#refusedTimer = null;
      this.#tellRefusals();
    }, LOCAL_REFUSALS_TOLD_MS);
    this.#refusedTimer.unref();
  }

  #tellRefusals(): void {
    const control = this.#control;
    if (this.#refusedCount === 0 || control === null || control.readyState !== control.OPEN) return;
    say(control, { type: 'local_refused', uid: this.#refusedUid, count: this.#refusedCount });
    this.#refusedCount = 0;
  }
}

async function openControl(
  options: TunnelOptions,
  heartbeats: Heartbeats,
): Promise<{ socket: WebSocket; hello: Hello }> {
  const socket = await openLink(options, 'control');
  heartbeats.add(socket);
  socket.on('error', () => {});
  const deadline = setTimeout(() => socket.terminate(), DIAL_MS_MAX);
  return new Promise((resolve, reject) => {
    const closed = (): void => {
      clearTimeout(deadline);
      reject(new LinkError('the gateway closed the tunnel before it was open', 'unreachable', null, null));
    };
    socket.once('close', closed);
    socket.resume();
    socket.once('message', (data) => {
      clearTimeout(deadline);
      socket.off('close', closed);
      socket.pause();
      const hello = parseMessage(gatewayMessage, String(data));
      if (hello?.type === 'hello') resolve({ socket, hello });
      else {
        socket.terminate();
        reject(new LinkError('the gateway speaks another version of tunnels', 'version_unknown', null, null));
      }
    });
  });
}

/** Lets two streams feed each other, each direction with its own end. */
function join(local: Socket, remote: TunnelStream): void {
  local.pipe(remote);
  remote.pipe(local);
  remote.on('error', () => {});
  local.once('close', () => remote.destroy());
  // What the gateway sent before it closed is still to be delivered.
  remote.once('close', () => local.destroySoon());
}

function say(socket: WebSocket, message: TunnelMessage): void {
  socket.send(JSON.stringify(message));
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}
