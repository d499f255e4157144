import { createReadStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { ReadStream } from 'node:tty';
import type { Command } from 'commander';
import { ConfigError } from '../config/faults.ts';
import { parseConfig } from '../config/load.ts';
import { SecretFileEditor, SecretFileError } from '../secrets/secret-file.ts';
import { ExitCode } from './exit-codes.ts';
import { PromptCancelled, promptHidden, readAll } from './prompt.ts';

/** What the command is given of the world around it. */
export interface SecretsPorts {
  readonly input: NodeJS.ReadStream;
  readonly output: NodeJS.WritableStream;
  readonly errors: NodeJS.WritableStream;
  readonly now: () => Date;
  /** Sets the exit status. */
  exit(code: number): void;
}

interface Options {
  readonly config?: string;
  readonly provider?: string;
  readonly file?: string;
  readonly identity?: string;
  readonly fromFile?: string;
  readonly json?: boolean;
}

/** `sallyport secrets set|list|remove|rekey`: the encrypted secret file. A value is never an argument. */
export function register(program: Command): void {
  addSecrets(program, {
    input: process.stdin,
    output: process.stdout,
    errors: process.stderr,
    now: () => new Date(),
    exit: (code) => {
      process.exitCode = code;
    },
  });
}

export function addSecrets(program: Command, ports: SecretsPorts): void {
  const secrets = program
    .command('secrets')
    .summary('keep the encrypted secret file')
    .description('Keeps the encrypted secret file that a provider of type "file" reads.');
  const add = (name: string, description: string): Command =>
    secrets
      .command(name)
      .description(description)
      .option('-c, --config <file>', 'configuration that declares the secret file')
      .option('--provider <name>', 'which of its providers of type "file"; default: the only one')
      .option('--file <file>', 'the secret file itself, instead of --config')
      .option('--identity <file>', 'its age identity; default: the file with .key for .age');
  add('set', 'store a secret; its value is asked for, or read from standard input')
    .argument('<name>', 'NAME, or NAME#FIELD')
    .option('--from-file <file>', 'read the value from a file')
    .action((name: string, options: Options) => guarded(ports, () => set(ports, name, options)));
  add('list', 'names, fields and times; never a value')
    .option('--json', 'as JSON')
    .action((options: Options) => guarded(ports, () => list(ports, options)));
  add('remove', 'remove a secret, or one field of it')
    .argument('<name>', 'NAME, or NAME#FIELD')
    .action((name: string, options: Options) => guarded(ports, () => remove(ports, name, options)));
  add('rekey', 'encrypt the file to a new identity; the old one opens it no more').action(
    (options: Options) => guarded(ports, () => rekey(ports, options)),
  );
}

async function set(ports: SecretsPorts, target: string, options: Options): Promise<number> {
  const [name, field] = splitName(target);
  const editor = await editorFor(options);
  const value = await readValue(ports, target, options.fromFile);
  if (value === '') throw new SecretFileError('the value is empty; nothing was stored');
  await editor.set(name, field, value, ports.now());
  ports.errors.write(`stored ${target}\n`);
  return ExitCode.ok;
}

async function readValue(ports: SecretsPorts, target: string, file: string | undefined): Promise<string> {
  if (file !== undefined && file !== '-') return readAll(createReadStream(file));
  if (file === '-' || !ports.input.isTTY) return readAll(ports.input);
  return promptHidden(`Value of ${target} (not shown): `, ports.input as ReadStream, ports.errors);
}

async function list(ports: SecretsPorts, options: Options): Promise<number> {
  const entries = await (await editorFor(options)).list();
  if (options.json === true) {
    ports.output.write(`${JSON.stringify(entries, null, 2)}\n`);
    return ExitCode.ok;
  }
  const width = Math.max(4, ...entries.map((entry) => entry.name.length));
  for (const { name, fields, updatedAt } of entries) {
    const what = fields.length > 0 ? `  #${fields.join(' #')}` : '';
    ports.output.write(`${name.padEnd(width)}  ${updatedAt}${what}\n`);
  }
  return ExitCode.ok;
}

async function remove(ports: SecretsPorts, target: string, options: Options): Promise<number> {
  const [name, field] = splitName(target);
  if (await (await editorFor(options)).remove(name, field)) {
    ports.errors.write(`removed ${target}\n`);
    return ExitCode.ok;
  }
  ports.errors.write(`there is no ${target}\n`);
  return ExitCode.failure;
}

async function rekey(ports: SecretsPorts, options: Options): Promise<number> {
  const recipient = await (await editorFor(options)).rekey(ports.now());
  ports.errors.write(`encrypted to a new identity, ${recipient}\n`);
  return ExitCode.ok;
}

/** `NAME#FIELD` taken apart. */
function splitName(target: string): [name: string, field: string | null] {
  const hash = target.indexOf('#');
  const name = hash === -1 ? target : target.slice(0, hash);
  const field = hash === -1 ? null : target.slice(hash + 1);
  if (name === '' || field === '') throw new SecretFileError('write NAME, or NAME#FIELD');
  return [name, field];
}

async function editorFor(options: Options): Promise<SecretFileEditor> {
  if (options.file !== undefined) {
    const identity = options.identity ?? `${options.file.replace(/\.age$/, '')}.key`;
    return new SecretFileEditor(options.file, identity);
  }
  if (options.config === undefined)
    throw new SecretFileError('say which file: --config FILE, or --file FILE with --identity FILE');
  // The files need not be there yet: this command makes them.
  const text = await readFile(options.config, 'utf8');
  const { config } = parseConfig(text, options.config, { files: false });
  const files = Object.entries(config.secrets).filter(([, provider]) => provider.type === 'file');
  const chosen = options.provider === undefined ? files : files.filter(([name]) => name === options.provider);
  const [only] = chosen;
  if (only === undefined || chosen.length > 1 || only[1].type !== 'file') {
    const names = files.map(([name]) => name).join(', ') || 'none';
    throw new SecretFileError(
      `${options.config} must have one provider of type "file", or --provider must name it (there: ${names})`,
    );
  }
  return new SecretFileEditor(only[1].path, only[1].identity);
}

/** Runs a command; what goes wrong is one line on standard error and an exit status. */
async function guarded(ports: SecretsPorts, act: () => Promise<number>): Promise<void> {
  try {
    ports.exit(await act());
  } catch (error) {
    if (error instanceof PromptCancelled) {
      ports.exit(ExitCode.interrupted);
      return;
    }
    ports.errors.write(`sallyport: ${(error as Error).message}\n`);
    ports.exit(
      error instanceof ConfigError || error instanceof SecretFileError ? ExitCode.usage : ExitCode.failure,
    );
  }
}
