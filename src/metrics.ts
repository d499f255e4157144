import { AggregatorRegistry, Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

const PHASE_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const WRITE_BUCKETS = [
  0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.25, 1,
];

/** The metrics of one process as values that a channel between processes can carry. */
export type MetricsSnapshot = Awaited<ReturnType<Registry['getMetricsAsJSON']>>;

/** Those of several processes as one: counted together, or the highest where a sum would mean nothing. */
export function mergedMetrics(snapshots: readonly MetricsSnapshot[]): Registry {
  return AggregatorRegistry.aggregate([...snapshots]);
}

/** What of the metrics of a process stays when it is gone: what it counted. */
export function countedMetrics(snapshot: MetricsSnapshot): MetricsSnapshot {
  // The types of prom-client say that a metric's type is a number; it is its name.
  return snapshot.filter(({ type }) => String(type) !== 'gauge');
}

/**
 * Every metric there is. Labels are `resource` and `engine` and closed sets of reasons: never a user, a database or a
 * statement, so that the number of series is known from the configuration.
 */
export class Metrics {
  readonly registry = new Registry();

  readonly sessionsOpen = new Gauge({
    name: 'sallyport_sessions_open',
    help: 'Sessions that are streaming now.',
    labelNames: ['resource', 'engine'],
    registers: [this.registry],
  });
  readonly sessionsLimit = new Gauge({
    name: 'sallyport_sessions_limit',
    help: 'Sessions that may be open at once, by `limits.max_connections`.',
    labelNames: ['resource'],
    aggregator: 'max',
    registers: [this.registry],
  });
  readonly certificateExpirySeconds = new Gauge({
    name: 'sallyport_certificate_expiry_seconds',
    help: 'When the certificate that a listener shows expires, in seconds since the epoch.',
    labelNames: ['certificate'],
    aggregator: 'max',
    registers: [this.registry],
  });
  readonly sessionsTotal = new Counter({
    name: 'sallyport_sessions_total',
    help: 'Sessions that have ended, by close reason.',
    labelNames: ['resource', 'engine', 'reason'],
    registers: [this.registry],
  });
  readonly handshakesOpen = new Gauge({
    name: 'sallyport_handshakes_open',
    help: 'Connections that are signing in now.',
    labelNames: ['engine'],
    registers: [this.registry],
  });
  readonly handshakeSeconds = new Histogram({
    name: 'sallyport_handshake_seconds',
    help: 'Time from accepting a connection to both sides being signed in, by phase.',
    labelNames: ['resource', 'engine', 'phase'],
    buckets: PHASE_BUCKETS,
    registers: [this.registry],
  });
  readonly handshakeFailuresTotal = new Counter({
    name: 'sallyport_handshake_failures_total',
    help: 'Connections that did not become sessions, by what failed.',
    labelNames: ['resource', 'engine', 'code'],
    registers: [this.registry],
  });
  readonly statementsTotal = new Counter({
    name: 'sallyport_statements_total',
    help: 'Statements that have ended, by status.',
    labelNames: ['resource', 'engine', 'status'],
    registers: [this.registry],
  });
  readonly refusalsTotal = new Counter({
    name: 'sallyport_statement_refusals_total',
    help: 'Statements that were refused by policy.',
    labelNames: ['resource', 'engine'],
    registers: [this.registry],
  });
  readonly opaqueTotal = new Counter({
    name: 'sallyport_observer_opaque_total',
    help: 'Times an observer lost the thread of the protocol and passed bytes unread.',
    labelNames: ['resource', 'engine'],
    registers: [this.registry],
  });
  readonly bytesTotal = new Counter({
    name: 'sallyport_bytes_total',
    help: 'Bytes carried, by direction: sent to the server, received from it.',
    labelNames: ['resource', 'engine', 'direction'],
    registers: [this.registry],
  });
  readonly cancelsTotal = new Counter({
    name: 'sallyport_cancels_total',
    help: 'Cancel requests from clients, by outcome.',
    labelNames: ['resource', 'engine', 'outcome'],
    registers: [this.registry],
  });
  readonly journalLagSeconds = new Gauge({
    name: 'sallyport_journal_lag_seconds',
    help: 'Age of the oldest event that is not yet as durable as is configured.',
    aggregator: 'max',
    registers: [this.registry],
  });
  readonly journalWriteSeconds = new Histogram({
    name: 'sallyport_journal_write_seconds',
    help: 'Time of one write to the journal (with fdatasync, where durability is synced).',
    buckets: WRITE_BUCKETS,
    registers: [this.registry],
  });
  readonly journalBytesTotal = new Counter({
    name: 'sallyport_journal_bytes_total',
    help: 'Bytes written to the journal.',
    registers: [this.registry],
  });
  readonly journalFailuresTotal = new Counter({
    name: 'sallyport_journal_failures_total',
    help: 'Writes to the journal that failed.',
    registers: [this.registry],
  });
  readonly recordingIndexUp = new Gauge({
    name: 'sallyport_recording_index_up',
    help: 'Whether the index of recordings could be written last.',
    aggregator: 'max',
    registers: [this.registry],
  });
  readonly recordingIndexBehindSessions = new Gauge({
    name: 'sallyport_recording_index_behind_sessions',
    help: 'Sessions that the index of recordings does not know whole, because it was away.',
    aggregator: 'max',
    registers: [this.registry],
  });
  readonly recordingSpoolBytes = new Gauge({
    name: 'sallyport_recording_spool_bytes',
    help: 'Sealed parts of recordings that wait on disk for their store.',
    registers: [this.registry],
  });
  readonly recordingSpoolParts = new Gauge({
    name: 'sallyport_recording_spool_parts',
    help: 'Number of those parts.',
    registers: [this.registry],
  });
  readonly secretFetchSeconds = new Histogram({
    name: 'sallyport_secret_fetch_seconds',
    help: 'Time to fetch a secret, by provider.',
    labelNames: ['provider'],
    buckets: PHASE_BUCKETS,
    registers: [this.registry],
  });
  readonly secretFetchFailuresTotal = new Counter({
    name: 'sallyport_secret_fetch_failures_total',
    help: 'Secrets that could not be fetched, by provider.',
    labelNames: ['provider'],
    registers: [this.registry],
  });

  readonly tunnelsOpen = new Gauge({
    name: 'sallyport_tunnels_open',
    help: 'Tunnels that are open now.',
    labelNames: ['resource', 'engine'],
    registers: [this.registry],
  });
  readonly tunnelConnectionsOpen = new Gauge({
    name: 'sallyport_tunnel_connections_open',
    help: 'Connections that tunnels carry now.',
    labelNames: ['resource', 'engine'],
    registers: [this.registry],
  });
  readonly tunnelRefusalsTotal = new Counter({
    name: 'sallyport_tunnel_refusals_total',
    help: 'Tunnels and connections through them that were refused before they were open, by what for.',
    labelNames: ['code'],
    registers: [this.registry],
  });

  readonly eventLoopLagSeconds = new Gauge({
    name: 'sallyport_event_loop_lag_seconds',
    help: 'How late timers of the event loop ran, 99th percentile of the last seconds.',
    aggregator: 'max',
    registers: [this.registry],
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry, prefix: 'sallyport_' });
    // Gauges under the names of counters, which Prometheus' own check complains of; the same numbers by type remain.
    for (const what of ['handles', 'requests', 'resources'])
      this.registry.removeSingleMetric(`sallyport_nodejs_active_${what}_total`);
  }
}
