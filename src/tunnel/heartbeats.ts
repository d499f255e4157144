import type { WebSocket } from 'ws';
import { PING_MS, SILENT_PINGS_MAX } from './limits.ts';

interface Beat {
  heard: boolean;
  silent: number;
}

/**
 * Pings every WebSocket it is given, and terminates those whose peer has been silent for too long.
 *
 * Each side pings on its own and takes anything that arrives for a sign of life. A side that does not read at the moment
 * (its own reader is slow: a result that waits in a pager) neither sees signs nor counts their absence, and its peer still
 * gets its pings: an end that is only slow is never taken for dead.
 */
export class Heartbeats {
  readonly #beats = new Map<WebSocket, Beat>();
  readonly #timer: NodeJS.Timeout;

  constructor(pingMs: number = PING_MS) {
    this.#timer = setInterval(() => this.#tick(), pingMs);
    this.#timer.unref();
  }

  add(socket: WebSocket): void {
    const beat: Beat = { heard: true, silent: 0 };
    this.#beats.set(socket, beat);
    const hear = (): void => {
      beat.heard = true;
    };
    socket.on('message', hear);
    socket.on('ping', hear);
    socket.on('pong', hear);
    socket.once('close', () => this.#beats.delete(socket));
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    for (const [socket, beat] of this.#beats) {
      if (socket.readyState !== socket.OPEN) continue;
      beat.silent = beat.heard || socket.isPaused ? 0 : beat.silent + 1;
      beat.heard = false;
      if (beat.silent >= SILENT_PINGS_MAX) socket.terminate();
      else socket.ping();
    }
  }
}
