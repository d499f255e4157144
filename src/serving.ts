import { makeDoors, type Served, type ServedConfig } from './doors.ts';
import type { Door, Target } from './gateway/target.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics.ts';
import { checkDown, makeResolver } from './providers.ts';
import type { SecretResolver } from './secrets/resolver.ts';

/** How often providers that were down are asked again, and how long they have to answer. */
export const PROVIDER_CHECK_MS = 30_000;

/** Resources, ways in and secret providers of one process, as the configuration in force has them. */
export class Serving<InForce extends ServedConfig> {
  readonly #log: Log;
  readonly #metrics: Metrics;
  readonly #checking: NodeJS.Timeout;
  #config: InForce;
  #resolver: SecretResolver;
  /** Of former configurations: sessions that began with them may still hold their leases. */
  readonly #formerResolvers: SecretResolver[] = [];
  #served: Served = { targets: new Map(), doors: [] };

  constructor(config: InForce, log: Log, metrics: Metrics) {
    this.#config = config;
    this.#log = log;
    this.#metrics = metrics;
    this.#resolver = makeResolver(config, log, metrics);
    this.#checking = setInterval(() => {
      void checkDown(this.#resolver, AbortSignal.timeout(PROVIDER_CHECK_MS));
    }, PROVIDER_CHECK_MS);
    this.#checking.unref();
  }

  get config(): InForce {
    return this.#config;
  }

  get resolver(): SecretResolver {
    return this.#resolver;
  }

  get targets(): ReadonlyMap<string, Target> {
    return this.#served.targets;
  }

  get doors(): readonly Door[] {
    return this.#served.doors;
  }

  /** Reads what the configuration names: certificates, keys. Rejects with the error of the first that cannot be used. */
  async open(): Promise<void> {
    this.#served = await makeDoors(this.#config, this.#resolver);
  }

  /**
   * Takes another configuration, and has `use` make it so. Where a part of it cannot be used the former one stays: `use` is
   * called once more to go back, and the promise rejects.
   */
  async replace(config: InForce, use: () => Promise<void>): Promise<void> {
    const former = { config: this.#config, resolver: this.#resolver, served: this.#served };
    const keepsProviders = JSON.stringify(former.config.secrets) === JSON.stringify(config.secrets);
    const resolver = keepsProviders ? former.resolver : makeResolver(config, this.#log, this.#metrics);
    try {
      const served = await makeDoors(config, resolver);
      this.#config = config;
      this.#resolver = resolver;
      this.#served = served;
      await use();
    } catch (error) {
      const isUsed = this.#config === config;
      this.#config = former.config;
      this.#resolver = former.resolver;
      this.#served = former.served;
      if (!keepsProviders) void resolver.close();
      if (isUsed) await use().catch(() => {});
      throw error;
    }
    if (!keepsProviders) this.#formerResolvers.push(former.resolver);
  }

  /** Gives back what is leased, and forgets what is kept. */
  async close(): Promise<void> {
    clearInterval(this.#checking);
    for (const resolver of [this.#resolver, ...this.#formerResolvers]) await resolver.close();
  }
}
