import type { Peer } from './peers.ts';

/** The gateway's default metrics look at the event loop every 10 ms: a loop that is never late shows that much. */
const RESOLUTION_MS = 10;
const ANSWER_MS_MAX = 10_000;

/** How late timers of the gateway's event loop ran, in milliseconds. */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

/** Delays since the last call, as the gateway's own metrics tell; null for peers that have none. */
export async function loopDelay(peer: Peer): Promise<LoopDelay | null> {
  if (peer.httpPort === undefined) return null;
  const response = await fetch(`http://127.0.0.1:${peer.httpPort}/metrics`, {
    signal: AbortSignal.timeout(ANSWER_MS_MAX),
  });
  const text = await response.text();
  const value = (what: string): number => {
    const match = new RegExp(
      `^sallyport_nodejs_eventloop_lag_${what}_seconds(?:\\{.*\\})? (\\S+)$`,
      'm',
    ).exec(text);
    return Math.max(0, Number(match?.[1]) * 1000 - RESOLUTION_MS);
  };
  return { p50: value('p50'), p99: value('p99'), max: value('max') };
}
