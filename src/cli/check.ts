import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import { ConfigError, type ConfigFault, faultText } from '../config/faults.ts';
import { type LoadedConfig, loadConfig } from '../config/load.ts';
import { ENGINE_OF_TYPE } from '../config/resources.ts';
import type { Config } from '../config/schema.ts';
import { loadEngine, publicKeyOf } from '../doors.ts';
import { makeTarget } from '../gateway/make-target.ts';
import { type AddressProbe, type ProbeResult, probeTarget } from '../gateway/probe.ts';
import { makeLog } from '../log.ts';
import { makeResolver } from '../providers.ts';
import { SecretError } from '../secrets/provider.ts';
import type { SecretResolver } from '../secrets/resolver.ts';
import { ExitCode } from './exit-codes.ts';

interface CheckOptions {
  readonly config: string;
  readonly connect?: boolean;
  readonly json?: boolean;
}

/** What a check found; with `--json`, this is the output. */
export interface CheckReport {
  readonly file: string;
  readonly ok: boolean;
  readonly faults: readonly ConfigFault[];
  /** Null without `--connect`, and where the configuration has faults. */
  readonly providers: readonly ProviderReport[] | null;
  readonly resources: readonly ResourceReport[] | null;
}

export interface ProviderReport {
  readonly provider: string;
  readonly type: string;
  readonly ok: boolean;
  readonly error: string | null;
  readonly hint: string | null;
}

export interface ResourceReport {
  readonly resource: string;
  readonly type: string;
  /** At least one address works; which one is taken is the engine's choice. */
  readonly ok: boolean;
  /** What kept the resource from being tried at all. */
  readonly error: string | null;
  readonly addresses: readonly AddressProbe[];
}

export function register(program: Command): void {
  program
    .command('check')
    .summary('check the configuration, and every step to each database')
    .description(
      'Checks the configuration and tells every fault with its line and what to write instead. With --connect it also asks each secret provider, and tries each resource step by step: name, TCP, launch credentials, TLS, sign-in.',
    )
    .requiredOption('-c, --config <file>', 'the configuration file')
    .option('--connect', 'try secret providers and resources too')
    .option('--json', 'the report as JSON')
    .action(async (options: CheckOptions) => {
      const { report, code } = await runCheck(options.config, options.connect === true);
      process.stdout.write(
        options.json === true ? `${JSON.stringify(report, null, 2)}\n` : reportText(report),
      );
      process.exitCode = code;
    });
}

/** Checks a configuration; `code` is the exit status. Never rejects for anything the file, network or servers do. */
export async function runCheck(
  path: string,
  connect: boolean,
): Promise<{ report: CheckReport; code: number }> {
  let loaded: LoadedConfig;
  try {
    loaded = await loadConfig(path);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const report = { file: path, ok: false, faults: error.faults, providers: null, resources: null };
    return { report, code: ExitCode.usage };
  }
  const { config, warnings } = loaded;
  const file = { file: path, faults: warnings };
  if (!connect) return { report: { ...file, ok: true, providers: null, resources: null }, code: ExitCode.ok };
  const resolver = makeResolver(config, makeLog('json', 'silent'), null);
  try {
    const providers = await checkProviders(config, resolver);
    const resources: ResourceReport[] = [];
    for (const name of Object.keys(config.resources))
      resources.push(await checkResource(config, name, resolver));
    const ok = [...providers, ...resources].every((part) => part.ok);
    return {
      report: { ...file, ok, providers, resources },
      code: ok ? ExitCode.ok : ExitCode.checkFailed,
    };
  } finally {
    await resolver.close();
  }
}

async function checkProviders(config: Config, resolver: SecretResolver): Promise<ProviderReport[]> {
  return Promise.all(
    Object.entries(config.secrets).map(async ([provider, { type }]) => {
      try {
        await resolver.check(provider, new AbortController().signal);
        return { provider, type, ok: true, error: null, hint: null };
      } catch (error) {
        const hint = error instanceof SecretError ? error.hint : null;
        return { provider, type, ok: false, error: (error as Error).message, hint };
      }
    }),
  );
}

async function checkResource(
  config: Config,
  name: string,
  resolver: SecretResolver,
): Promise<ResourceReport> {
  const resource = config.resources[name]!;
  const head = { resource: name, type: resource.type };
  try {
    const target = await makeTarget(name, resource, {
      engine: await loadEngine(ENGINE_OF_TYPE[resource.type]),
      resolver,
      recording: config.recording,
      publicKey: await publicKeyOf(resource),
      isLocal: true,
    });
    const addresses = await probeTarget(target, { random: randomBytes, now: Date.now });
    return { ...head, ok: addresses.some((address) => address.ok), error: null, addresses };
  } catch (error) {
    return { ...head, ok: false, error: (error as Error).message, addresses: [] };
  }
}

const STEP_NAMES: Readonly<Record<ProbeResult['step'], string>> = {
  name: 'name',
  tcp: 'TCP',
  secret: 'secret',
  tls: 'TLS',
  sign_in: 'sign-in',
};

/** The report for people: one line a step, and under a failure what to do about it. */
export function reportText(report: CheckReport): string {
  const lines = report.faults.map((fault) => faultText(report.file, fault));
  const errors = report.faults.filter((fault) => fault.severity === 'error').length;
  if (errors > 0) return `${[...lines, '', `${errors} ${errors === 1 ? 'fault' : 'faults'}`].join('\n')}\n`;
  lines.push(`${report.file}: valid`);
  if (report.providers !== null && report.providers.length > 0) {
    lines.push('', 'secret providers');
    for (const { provider, type, ok, error, hint } of report.providers) {
      lines.push(`  ${ok ? 'ok    ' : 'FAILED'} ${provider} (${type})${error === null ? '' : `: ${error}`}`);
      if (hint !== null) lines.push(`           ${hint}`);
    }
  }
  for (const { resource, type, error, addresses } of report.resources ?? []) {
    lines.push('', `${resource} (${type})`);
    if (error !== null) lines.push(`  FAILED ${error}`);
    for (const { address, steps } of addresses) {
      lines.push(`  ${address}`);
      for (const step of steps) lines.push(...stepLines(step));
    }
  }
  if (report.resources !== null) {
    const failed = report.resources.filter((resource) => !resource.ok).length;
    const all = report.resources.length;
    lines.push('', failed === 0 ? `all ${all} resources work` : `${failed} of ${all} resources do not work`);
  }
  return `${lines.join('\n')}\n`;
}

function stepLines({ step, outcome, detail, hint, milliseconds }: ProbeResult): string[] {
  const name = STEP_NAMES[step].padEnd(8);
  if (outcome === 'skipped') return detail === '' ? [] : [`    -      ${name} ${detail}`];
  if (outcome === 'ok') return [`    ok     ${name} ${detail} (${milliseconds} ms)`];
  const lines = [`    FAILED ${name} ${detail}`];
  if (hint !== null) lines.push(`                    ${hint}`);
  return lines;
}
