import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { parseConfig } from '../../../src/config/load.ts';

/** What is shipped, judged by the tools of the platforms that it is for. */

const root = fileURLToPath(new URL('../../../', import.meta.url));
const docker = join(root, 'docker');
const python = join(root, 'var', 'clients', 'python', 'bin');
const helmRender = join(root, 'var', 'clients', 'bin', 'helm-render');
const scratch = mkdtempSync(join(tmpdir(), 'sallyport-ship-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Runs a tool; rejects with all that it said when it is not content. */
function judged(command: string, args: readonly string[], cwd = root): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    timeout: 60_000,
  });
  if (error) throw new Error(`${command}: ${error.message}; node scripts/clients.cjs installs it`);
  expect(status, `${stdout}${stderr}`).toBe(0);
  return stdout;
}

function sallyport(...args: string[]): string {
  return execFileSync(process.execPath, [join(root, 'bin', 'sallyport.js'), ...args], { encoding: 'utf8' });
}

test('promtool takes the rules, runs their tests, and takes the configuration', () => {
  const folder = join(docker, 'prometheus');
  judged('promtool', ['check', 'rules', 'alerts.yaml'], folder);
  judged('promtool', ['test', 'rules', 'alerts.test.yaml'], folder);
  judged('promtool', ['check', 'config', '--syntax-only', 'prometheus.yaml'], folder);
});

test('hadolint has nothing to say about the Dockerfile', () => {
  judged(join(python, 'hadolint'), ['--no-color', join(docker, 'Dockerfile')]);
});

test('shellcheck has nothing to say about the scripts', () => {
  judged(join(python, 'shellcheck'), ['.ci/run', 'docker/openbao/seed.sh']);
});

test('Kubernetes takes the manifests, and knows every field in them', () => {
  for (const name of readdirSync(join(docker, 'kubernetes')))
    judged(join(python, 'kubernetes-validate'), ['--strict', join(docker, 'kubernetes', name)]);
});

describe('Helm chart', () => {
  const chart = join(docker, 'helm', 'sallyport');
  const render = (values: string): string => {
    const file = join(scratch, 'values.yaml');
    writeFileSync(file, values);
    return judged(helmRender, [chart, file]);
  };
  const EVERYTHING = `
replicaCount: 3
image: { repository: registry.example/sallyport, tag: "9.9", pullPolicy: Always }
imagePullSecrets: [{ name: registry }]
config:
  gateway: { name: gw, shutdown_grace: 60s }
  secrets: { vault: { type: vault, address: "https://vault.example:8200", auth: { method: kubernetes, role: sallyport } } }
  resources:
    orders: { type: postgres, host: db.example, launch_credentials: "vault:database/creds/orders" }
  listeners:
    - listen: 0.0.0.0:5432
      resource: orders
      client_auth: token
      tls: { mode: require, cert: /etc/sallyport-files/listener/tls.crt, key: /etc/sallyport-files/listener/tls.key }
envFromSecrets: [database-passwords]
files: [{ name: ca, configMap: database-ca }, { name: listener, secret: sallyport-tls }]
ports: [{ name: postgres, port: 5432 }]
service: { type: LoadBalancer, annotations: { example.com/internal: "true" }, sessionAffinity: None }
persistence: { enabled: false, size: 1Gi }
serviceAccount: { create: true, name: gate, annotations: { example.com/role: reader } }
networkPolicy: { egress: [{ to: [{ ipBlock: { cidr: 10.0.0.0/8 } }] }] }
serviceMonitor: { enabled: true, interval: 30s }
nodeSelector: { disk: ssd }
tolerations: [{ key: dedicated, operator: Exists }]
affinity: { nodeAffinity: {} }
podAnnotations: { example.com/team: data }
`;

  test.each([
    ['its defaults', '{}'],
    ['every value set', EVERYTHING],
  ])('with %s renders to manifests that Kubernetes takes', (_, values) => {
    const text = render(values);
    // A ServiceMonitor is of the Prometheus operator, whose schema is not among Kubernetes' own.
    const parts = text.split(/^---$/m).filter((part) => !part.includes('kind: ServiceMonitor'));
    const file = join(scratch, 'rendered.yaml');
    writeFileSync(file, parts.join('---'));
    judged(join(python, 'kubernetes-validate'), ['--strict', file]);
  });

  test('gives the gateway a configuration that it takes', () => {
    const all = parseAllDocuments(render(EVERYTHING)).map(
      (one) => one.toJS() as { kind: string; data: Record<string, string> },
    );
    const text = all.find(({ kind }) => kind === 'ConfigMap')!.data['config.yaml']!;
    const { config } = parseConfig(text, '/etc/sallyport/config.yaml', { files: false });
    expect(config.gateway).toMatchObject({
      name: 'gw',
      data_dir: '/var/lib/sallyport',
      shutdown_grace: 60_000,
    });
    expect(config.http.listen).toEqual({ kind: 'tcp', host: '0.0.0.0', port: 7070 });
    expect(config.listeners.length).toBe(1);
  });

  test('a value that is misspelt or wrong is said', () => {
    for (const values of ['replicas: 3', 'replicaCount: none', 'files: [{ name: a }]']) {
      const file = join(scratch, 'wrong.yaml');
      writeFileSync(file, values);
      const { status, stderr } = spawnSync(helmRender, [chart, file], { encoding: 'utf8' });
      expect(status, values).toBe(1);
      expect(stderr).toMatch(/don't meet the specifications of the schema/);
    }
  });
});

describe('systemd', () => {
  test('takes the unit', () => {
    // The program is not installed here: another stands in its place, so that everything else is judged.
    const unit = readFileSync(join(docker, 'systemd', 'sallyport.service'), 'utf8')
      .replaceAll('/usr/bin/sallyport', '/bin/true')
      .replace(/^Documentation=.*$/m, '');
    const file = join(scratch, 'sallyport.service');
    writeFileSync(file, unit);
    const { status, stdout, stderr } = spawnSync('systemd-analyze', ['verify', file], { encoding: 'utf8' });
    expect(`${stdout}${stderr}`.split('\n').filter((line) => line.includes('sallyport.service'))).toEqual([]);
    expect(status).toBe(0);
  });

  test('finds little that is exposed', () => {
    const file = join(docker, 'systemd', 'sallyport.service');
    judged('systemd-analyze', ['security', '--offline=true', '--threshold=20', file]);
  });

  test('makes the user', () => {
    const target = join(scratch, 'root');
    execFileSync('mkdir', ['-p', join(target, 'etc')]);
    judged('systemd-sysusers', [`--root=${target}`, join(docker, 'systemd', 'sallyport.sysusers')]);
    expect(readFileSync(join(target, 'etc', 'passwd'), 'utf8')).toMatch(
      /^sallyport:x:\d+:\d+:.*:\/var\/lib\/sallyport:/m,
    );
  });
});

describe('completion', () => {
  const script = (shell: string): string => {
    const file = join(scratch, `completion.${shell}`);
    writeFileSync(file, sallyport('completion', shell));
    return file;
  };

  test('bash offers commands, options, choices and files', () => {
    const file = script('bash');
    const offered = (...words: string[]): string[] =>
      judged('bash', [
        '-c',
        // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's, not ours
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sallyport; printf "%s\\n" "${COMPREPLY[@]}"',
        'bash',
        file,
        ...words,
      ])
        .trim()
        .split('\n');
    expect(offered('sallyport', 'rec')).toEqual(['recordings']);
    expect(offered('sallyport', 'recordings', 'rep')).toEqual(['replay']);
    expect(offered('sallyport', 'recordings', 'replay', '--la')).toEqual(['--last']);
    expect(offered('sallyport', 'completion', 'f')).toEqual(['fish']);
    expect(offered('sallyport', 'start', '--config', join(root, 'config.exa'))).toEqual([
      join(root, 'config.example.yaml'),
    ]);
    expect(offered('sallyport', 'tokens', 'issue', 'orders', '--ttl', '')).toEqual(['']);
  });

  test('fish offers them too', () => {
    const file = script('fish');
    const offered = (line: string): string[] =>
      judged('fish', ['--no-config', '-c', `source ${file}; complete -C "${line}"`])
        .trim()
        .split('\n')
        .map((one) => one.split('\t')[0]!);
    expect(offered('sallyport rec')).toEqual(['recordings']);
    expect(offered('sallyport recordings rep')).toEqual(['replay']);
    expect(offered('sallyport recordings replay --la')).toEqual(['--last']);
    expect(offered('sallyport completion b')).toEqual(['bash']);
  });

  test('zsh loads its script as a function of its own', () => {
    const folder = join(scratch, 'zsh');
    execFileSync('mkdir', ['-p', folder]);
    writeFileSync(join(folder, '_sallyport'), sallyport('completion', 'zsh'));
    judged('zsh', ['-f', '-n', join(folder, '_sallyport')]);
    const said = judged('zsh', [
      '-f',
      '-c',
      `fpath=(${folder} $fpath); autoload -Uz compinit; compinit -u -d ${folder}/dump; print -r -- $_comps[sallyport]; autoload +X _sallyport; whence -w _sallyport`,
    ]);
    expect(said).toBe('_sallyport\n_sallyport: function\n');
  });
});

test('manual pages are well-formed, and man shows them', () => {
  const folder = join(root, 'docs', 'man');
  for (const name of readdirSync(folder)) {
    const { stdout } = spawnSync('mandoc', ['-T', 'lint', '-W', 'warning', join(folder, name)], {
      encoding: 'utf8',
    });
    // No date: the same sources make the same page every day.
    expect(stdout.split('\n').filter((line) => line !== '' && !line.includes('missing date'))).toEqual([]);
  }
  expect(judged('mandoc', ['-T', 'ascii', join(folder, 'sallyport-start.1')])).toContain('grace');
});
