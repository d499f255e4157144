import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { Metrics } from '../../src/metrics.ts';

/** Alerts and dashboard ask for metrics that exist, by labels that these have. */

interface Described {
  readonly name: string;
  readonly type: string;
  readonly labelNames: readonly string[];
}

const docker = new URL('../../docker/', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, docker), 'utf8');

/** What Prometheus sees of each metric: name of a series to the labels it may have. */
const series = new Map<string, ReadonlySet<string>>();
for (const metric of new Metrics().registry.getMetricsAsArray() as unknown as Described[]) {
  const labels = new Set([...metric.labelNames, 'instance', 'job']);
  if (metric.type !== 'histogram') series.set(metric.name, labels);
  else {
    series.set(`${metric.name}_bucket`, new Set([...labels, 'le']));
    series.set(`${metric.name}_sum`, labels);
    series.set(`${metric.name}_count`, labels);
  }
}

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly annotations: Readonly<Record<string, string>>;
}
const rules = (parse(read('prometheus/alerts.yaml')) as { groups: { rules: Rule[] }[] }).groups.flatMap(
  (group) => group.rules,
);

interface Dashboard {
  readonly panels: readonly {
    readonly id: number;
    readonly title: string;
    readonly gridPos: { x: number; y: number; w: number; h: number };
    readonly targets?: readonly { readonly expr: string; readonly legendFormat?: string }[];
  }[];
  readonly templating: { readonly list: readonly { readonly query: string }[] };
}
const dashboard = JSON.parse(read('grafana/dashboards/sallyport.json')) as Dashboard;

function expectKnown(expression: string): void {
  const used = [...expression.matchAll(/\b(sallyport_\w+)(?:\{([^}]*)\})?/g)];
  expect(
    used.length + (expression.includes('up{') ? 1 : 0),
    `asks for nothing: ${expression}`,
  ).toBeGreaterThan(0);
  for (const [, name = '', matchers = ''] of used) {
    const labels = series.get(name);
    expect(labels, `${name} is no metric: ${expression}`).toBeDefined();
    for (const [, label = ''] of matchers.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g))
      expect([...labels!], `${name} has no label ${label}`).toContain(label);
  }
  const known = new Set(used.flatMap(([, name = '']) => [...(series.get(name) ?? ['instance', 'job'])]));
  for (const [, list = ''] of expression.matchAll(/\b(?:by|on|without|ignoring)\s*\(([^)]*)\)/g))
    for (const label of list
      .split(',')
      .map((one) => one.trim())
      .filter((one) => one !== ''))
      expect([...known], `${expression}: label ${label}`).toContain(label);
}

describe('alerts', () => {
  test.each(rules)('$alert asks for what there is', ({ expr }) => expectKnown(expr));

  test.each(rules)('$alert says what happened and what to do', ({ annotations }) => {
    expect(annotations['summary']).toBeTruthy();
    expect(annotations['description']).toBeTruthy();
  });

  test('each has a unit test', () => {
    const tests = read('prometheus/alerts.test.yaml');
    for (const { alert } of rules) expect(tests, alert).toMatch(new RegExp(`alertname: ${alert}\\b`));
  });
});

describe('dashboard', () => {
  const targets = dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({ title, expr })),
  );
  test.each(targets)('$title asks for what there is', ({ expr }) => expectKnown(expr));

  test('variables are filled from series that exist', () => {
    for (const { query } of dashboard.templating.list.filter((one) => one.query.startsWith('label_values'))) {
      const [, name = '', label = ''] = /^label_values\((\w+), (\w+)\)$/.exec(query) ?? [];
      expect([...(series.get(name) ?? [])], query).toContain(label);
    }
  });

  test('every metric of ours is on it or in an alert', () => {
    const shown = JSON.stringify(dashboard) + rules.map(({ expr }) => expr).join('\n');
    const missing = [...series.keys()]
      .map((name) => name.replace(/_(bucket|sum|count)$/, ''))
      .filter((name) => !/^sallyport_(process|nodejs)_/.test(name) && !shown.includes(name));
    expect([...new Set(missing)]).toEqual([]);
  });

  test('no two panels have one id, or one place', () => {
    const ids = dashboard.panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    const cells = dashboard.panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, cell) => `${x + (cell % w)},${y + Math.floor(cell / w)}`),
    );
    expect(new Set(cells).size).toBe(cells.length);
    for (const { gridPos } of dashboard.panels) expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(24);
  });
});

test('Prometheus scrapes the gateway of the playground, and reads the alerts', () => {
  const { rule_files, scrape_configs } = parse(read('prometheus/prometheus.yaml')) as {
    rule_files: string[];
    scrape_configs: { job_name: string; static_configs: { targets: string[] }[] }[];
  };
  expect(rule_files).toEqual(['alerts.yaml']);
  expect(scrape_configs[0]).toMatchObject({
    job_name: 'sallyport',
    static_configs: [{ targets: ['gateway:7070'] }],
  });
});
