import type { Metrics } from '../../src/metrics.ts';

interface Described {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly labelNames: readonly string[];
}

/** docs/metrics.md: every metric of ours with its kind, its labels and what it says. */
export function metricsReference(metrics: Metrics): string {
  const all = metrics.registry.getMetricsAsArray() as unknown as Described[];
  const ours = all.filter(({ name }) => !isOfNode(name));
  const rows = ours.map(
    ({ name, type, labelNames, help }) =>
      `| \`${name}\` | ${type} | ${labelNames.map((label) => `\`${label}\``).join(', ')} | ${help.replaceAll('|', '\\|')} |`,
  );
  return `# Metrics

\`/metrics\` of the gateway's HTTP address, in Prometheus' text format. Labels are resources, engines and closed sets of words, never
people, databases or statements: how many series there are is known from the configuration. [Alerts](../docker/prometheus/alerts.yaml) and a
[dashboard](../docker/grafana/dashboards/sallyport.json) are ready-made.

| metric | kind | labels | what it says |
|---|---|---|---|
${rows.join('\n')}

A histogram has three series: \`_bucket\` with the label \`le\`, \`_sum\` and \`_count\`.

| label | values |
|---|---|
| \`resource\` | the names under \`resources\` |
| \`engine\` | \`postgres\`, \`mysql\`, \`tds\` |
| \`reason\` | why a session ended: [close reasons](errors.md#why-a-session-ended) |
| \`code\` | what failed: [errors](errors.md) |
| \`phase\` | \`credentials\`, \`connect\`, \`total\` |
| \`direction\` | \`sent\` to the server, \`received\` from it |

Beside these there is what prom-client tells about the process, with the prefixes \`sallyport_process_\` (CPU, memory, file descriptors) and
\`sallyport_nodejs_\` (event loop, garbage collection, heap).

This page is made from \`src/metrics.ts\` by \`npm run generate\`.
`;
}

/** prom-client's default metrics, which the process has and not the gateway. */
function isOfNode(name: string): boolean {
  return /^sallyport_(process|nodejs)_/.test(name);
}
