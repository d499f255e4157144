import { monitorEventLoopDelay } from 'node:perf_hooks';

const RESOLUTION_MS = 20;
const INTERVAL_MS = 5_000;
const NANOSECONDS = 1e9;

/** Reports how late timers run: the 99th percentile of the last five seconds, in seconds. */
export class EventLoopLag {
  readonly #histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  readonly #timer: NodeJS.Timeout;

  constructor(gauge: { set(seconds: number): void }) {
    this.#histogram.enable();
    this.#timer = setInterval(() => {
      gauge.set(Math.max(0, this.#histogram.percentile(99) / NANOSECONDS - RESOLUTION_MS / 1000));
      this.#histogram.reset();
    }, INTERVAL_MS);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.#histogram.disable();
  }
}
