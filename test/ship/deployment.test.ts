import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { ConfigError } from '../../src/config/faults.ts';
import { configJsonSchema } from '../../src/config/json-schema.ts';
import { parseConfig } from '../../src/config/load.ts';
import type { Config } from '../../src/config/schema.ts';

/** What docker/ deploys: every configuration in it is one that the gateway takes, and what surrounds it fits to it. */

const docker = fileURLToPath(new URL('../../docker/', import.meta.url));
const read = (path: string): string => readFileSync(join(docker, path), 'utf8');

/** Without looking for the files that it names: they are in a container. */
function configOf(text: string): Config {
  try {
    return parseConfig(text, '/etc/sallyport/config.yaml', { files: false }).config;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new Error(error.faults.map(({ path, message }) => `${path}: ${message}`).join('\n'), {
      cause: error,
    });
  }
}

describe('playground', () => {
  interface Service {
    readonly image?: string;
    readonly build?: { readonly context: string; readonly dockerfile: string };
    readonly volumes?: readonly string[];
    readonly ports?: readonly string[];
    readonly depends_on?: Readonly<Record<string, { condition: string }>> | readonly string[];
    readonly healthcheck?: object;
  }
  const compose = parse(read('compose.yaml')) as {
    services: Readonly<Record<string, Service>>;
    volumes: Readonly<Record<string, unknown>>;
  };
  const services = Object.entries(compose.services);
  const config = configOf(read('sample/gateway.yaml'));

  test.each(services)('%s has what it is made of', (_, { image, build, volumes = [] }) => {
    expect(image === undefined).not.toBe(build === undefined);
    if (build !== undefined) expect(existsSync(join(docker, build.context, build.dockerfile))).toBe(true);
    for (const volume of volumes) {
      const [source = '', target = ''] = volume.split(':');
      expect(target, volume).toMatch(/^\//);
      if (source.startsWith('.')) expect(existsSync(join(docker, source)), volume).toBe(true);
      else expect(Object.keys(compose.volumes), volume).toContain(source);
    }
  });

  test.each(services)(
    '%s waits for services that there are, and can be waited for',
    (_, { depends_on = {} }) => {
      const waits = Array.isArray(depends_on)
        ? depends_on.map((name) => [name, 'service_started'] as const)
        : Object.entries(depends_on as Record<string, { condition: string }>).map(
            ([name, { condition }]) => [name, condition] as const,
          );
      for (const [name, condition] of waits) {
        expect(Object.keys(compose.services)).toContain(name);
        if (condition === 'service_healthy') expect(compose.services[name]?.healthcheck, name).toBeDefined();
      }
    },
  );

  test('no port is open to other machines', () => {
    for (const [name, { ports = [] }] of services)
      for (const port of ports) expect(port, name).toMatch(/^127\.0\.0\.1:\d+:\d+$/);
  });

  test('the gateway publishes its listeners, and reaches each database by its name', () => {
    const published = (compose.services['gateway']?.ports ?? []).map((port) => Number(port.split(':')[2]));
    for (const { listen } of config.listeners) {
      if (listen.kind === 'tcp') expect(published).toContain(listen.port);
    }
    for (const { host } of Object.values(config.resources))
      expect(Object.keys(compose.services)).toContain(host);
  });

  test('the accounts of the sample databases are those in the secret store', () => {
    const seed = read('openbao/seed.sh');
    for (const [name, { type, launch_credentials }] of Object.entries(config.resources)) {
      const path = String(launch_credentials).replace('bao:secret/', '');
      const [, user = '', password = ''] =
        new RegExp(`kv put -mount=secret ${path} username=(\\S+) password=(\\S+)`).exec(seed) ?? [];
      const sql = read(`sample/${type}.sql`);
      expect(sql, name).toContain(user);
      expect(sql, name).toContain(`'${password}'`);
    }
  });

  test('the data of every database is loaded', () => {
    for (const name of readdirSync(join(docker, 'sample')).filter((one) => one.endsWith('.sql')))
      expect(read('compose.yaml')).toContain(`./sample/${name}:`);
  });
});

describe('image', () => {
  const dockerfile = read('Dockerfile');

  test('copies what there is, and its build context lets it through', () => {
    const root = join(docker, '..');
    const ignored = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n');
    for (const [, list = ''] of dockerfile.matchAll(/^COPY (?!--from)(.+)$/gm)) {
      for (const name of list.split(' ').slice(0, -1)) {
        expect(existsSync(join(root, name)), name).toBe(true);
        expect(ignored, `.dockerignore leaves out ${name}`).toContain(`!${name}`);
      }
    }
  });

  test('is not root, and has a health check that is a command', () => {
    expect(dockerfile).toMatch(/^USER 65532:65532$/m);
    expect(dockerfile).toMatch(
      /HEALTHCHECK[^\n]*\\\n\s+CMD \["node", "\/app\/bin\/sallyport\.js", "health"\]/,
    );
  });
});

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly data?: Readonly<Record<string, string>>;
  // Kubernetes' own schemas are checked by kubernetes-validate; here it is read freely.
  // biome-ignore lint/suspicious/noExplicitAny: see above
  readonly spec?: any;
}

function manifests(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((document) => document.toJS() as Manifest | null)
    .filter((one) => one !== null);
}

describe.each(['gateway.yaml', 'sidecar.yaml'])('kubernetes/%s', (file) => {
  const all = manifests(read(`kubernetes/${file}`));
  const texts = all.flatMap(({ data }) => (data?.['config.yaml'] ? [data['config.yaml']] : []));
  const workload = all.find(({ kind }) => kind === 'StatefulSet' || kind === 'Deployment')!;
  const pod = workload.spec.template.spec;
  const container = [...(pod.initContainers ?? []), ...pod.containers].find(
    ({ name }) => name === 'sallyport',
  );

  test('has a configuration that the gateway takes', () => {
    expect(texts.length).toBe(1);
    configOf(texts[0]!);
  });

  test('mounts every volume that is used, and no other', () => {
    const claims = (workload.spec.volumeClaimTemplates ?? []).map((one: Manifest) => one.metadata.name);
    const volumes = [...(pod.volumes ?? []).map((one: { name: string }) => one.name), ...claims];
    expect(container.volumeMounts.map((one: { name: string }) => one.name).sort()).toEqual(volumes.sort());
  });

  test('every file in the configuration lies in a mounted folder', () => {
    const mounts: string[] = container.volumeMounts.map((one: { mountPath: string }) => one.mountPath);
    for (const [path] of texts[0]!.matchAll(/\/(?:etc|var|run)\/[\w./-]+/g))
      expect(
        mounts.some((mount) => path === mount || path.startsWith(`${mount}/`)),
        path,
      ).toBe(true);
  });

  test('files that only a group may read are of a group that the gateway is in', () => {
    expect(pod.securityContext.fsGroup).toBe(container.securityContext.runAsGroup);
  });

  test('ports that others reach are open, and only they', () => {
    const { listeners, http } = configOf(texts[0]!);
    const reachable = [...listeners.map(({ listen }) => listen), http.listen].flatMap((listen) =>
      listen.kind === 'tcp' && listen.host === '0.0.0.0' ? [listen.port] : [],
    );
    const ports = container.ports.map((one: { containerPort: number }) => one.containerPort);
    expect(ports.sort()).toEqual(reachable.sort());
  });
});

describe('Helm chart', () => {
  const values = parse(read('helm/sallyport/values.yaml')) as Record<string, unknown>;
  const schema = JSON.parse(read('helm/sallyport/values.schema.json')) as {
    properties: Record<string, unknown>;
  };

  test('the schema knows every value, and every value has a default', () => {
    expect(Object.keys(schema.properties).sort()).toEqual(Object.keys(values).sort());
  });

  test('the default configuration is one that the gateway takes', () => {
    configOf(stringify({ ...(values['config'] as object), gateway: { data_dir: '/var/lib/sallyport' } }));
  });

  test('its version is that of the package', () => {
    const chart = parse(read('helm/sallyport/Chart.yaml')) as { version: string; appVersion: string };
    const { version } = JSON.parse(readFileSync(join(docker, '../package.json'), 'utf8')) as {
      version: string;
    };
    expect(chart).toMatchObject({ version, appVersion: version });
  });
});

describe('systemd', () => {
  const unit = read('systemd/sallyport.service');
  const only = (name: string): string | undefined => new RegExp(`^${name}=(.*)$`, 'm').exec(unit)?.[1];

  test('waits longer for the end than the gateway lets statements go on', () => {
    const { gateway } = configOf('{ resources: {} }');
    expect(Number(only('TimeoutStopSec')?.replace('s', '')) * 1000).toBeGreaterThan(
      gateway.shutdown_grace + 5000,
    );
  });

  test('runs commands with options that there are', () => {
    for (const name of ['ExecStartPre', 'ExecStart'])
      expect(only(name)).toMatch(
        /^\/usr\/bin\/sallyport (check|start) --config \/etc\/sallyport\/config\.yaml$/,
      );
    expect(read('systemd/sallyport.sysusers')).toMatch(/^u sallyport /m);
  });
});

test('the schema that editors are pointed to is where the samples say', () => {
  const [, path = ''] = /yaml-language-server: \$schema=(\S+)/.exec(read('sample/gateway.yaml')) ?? [];
  const file = join(docker, 'sample', path);
  expect(statSync(file).isFile()).toBe(true);
  expect(JSON.parse(readFileSync(file, 'utf8'))).toEqual(JSON.parse(JSON.stringify(configJsonSchema())));
});
