import { type CommandNode, flattened } from '../../src/cli/command-tree.ts';
import { ExitCode } from '../../src/cli/exit-codes.ts';

/** What each exit status says, in the words of docs/cli.md. */
const EXIT_STATUS: Readonly<Record<keyof typeof ExitCode, string>> = {
  ok: 'Done; for start, ended by a signal after everything was closed in order.',
  failure: 'Something failed that no other status stands for; standard error says what.',
  usage: 'The command line or the configuration is wrong. Nothing was started.',
  startFailed:
    'The daemon could not start: an address is taken, the journal cannot be written, a key cannot be read.',
  checkFailed: 'check --connect: a secret provider or a resource does not work.',
  verifyFailed: 'recordings verify: a record was altered, is incomplete, or cannot be proven.',
  interrupted: 'Interrupted: Ctrl-C at a prompt, or a second signal during a shutdown.',
};

const SIGNALS: readonly (readonly [string, string])[] = [
  [
    'SIGTERM, SIGINT',
    'No new sessions; running statements may finish for gateway.shutdown_grace, then sessions end. A second one ends at once.',
  ],
  [
    'SIGHUP',
    'Reads the configuration again. Running sessions keep what they began with; a configuration with faults is not taken.',
  ],
];

const FILES: readonly (readonly [string, string])[] = [
  ['/etc/sallyport/config.yaml', 'The configuration, where packages and images look for it.'],
  ['gateway.data_dir', 'Journal, keys and state; see docs/operations.md of the package.'],
  ['~/.config/sallyport/credentials.json', 'The login of a person, made by sallyport login.'],
];

const ENVIRONMENT: readonly (readonly [string, string])[] = [
  [
    'SALLYPORT_HOME',
    'The folder for the login and for what tunnels keep, instead of the place that is usual.',
  ],
  ['SALLYPORT_DEMO_DIR', 'Where sallyport demo keeps its journal, recordings and keys.'],
  ['SALLYPORT_DEBUG', 'Set to anything: a failure prints its stack.'],
  [
    'HTTPS_PROXY, HTTP_PROXY, NO_PROXY',
    'The proxy on the way to a remote gateway, for login, tunnel and connect.',
  ],
  ['NODE_EXTRA_CA_CERTS', 'A PEM file of authorities to trust beside the built-in ones.'],
];

/** Manual pages in the language of man(7): the program's own and one a command. File name to text. */
export function manualPages(tree: CommandNode, version: string): ReadonlyMap<string, string> {
  const pages = new Map([['sallyport.1', programPage(tree, version)]]);
  for (const command of tree.commands)
    pages.set(`${command.path.join('-')}.1`, commandPage(command, version));
  return pages;
}

function programPage(tree: CommandNode, version: string): string {
  return page([
    header('sallyport', version),
    section('NAME', `sallyport \\- ${escaped(tree.description).replace(/\.$/, '')}`),
    section('SYNOPSIS', '.B sallyport\n.I command\n.RI [ option ...]'),
    section(
      'DESCRIPTION',
      lines(
        'Sallyport stands between a database tool and the database: the tool signs in to Sallyport without a password, Sallyport signs in to the database with credentials that the person never sees, and every statement is on record before the database runs it.',
        '.PP',
        'Results go to standard output; what people need to know beside them goes to standard error.',
      ),
    ),
    section(
      'COMMANDS',
      tree.commands
        .map(({ path, summary }) => `.TP\n.BR ${path.join('\\-')} (1)\n${escaped(sentence(summary))}`)
        .join('\n'),
    ),
    section('OPTIONS', options(tree)),
    section('SIGNALS', definitions(SIGNALS)),
    exitStatus(),
    section('ENVIRONMENT', definitions(ENVIRONMENT)),
    section('FILES', definitions(FILES)),
  ]);
}

function commandPage(command: CommandNode, version: string): string {
  const name = command.path.join('-');
  const below = flattened(command).slice(1);
  const runnable =
    command.commands.length === 0 ? [command] : below.filter((one) => one.commands.length === 0);
  return page([
    header(name, version),
    section('NAME', `${escaped(name)} \\- ${escaped(command.summary)}`),
    section('SYNOPSIS', runnable.map(synopsis).join('\n.br\n')),
    section('DESCRIPTION', paragraphs(command.description)),
    ...(command.commands.length === 0
      ? [section('OPTIONS', operands(command))]
      : [
          section(
            'COMMANDS',
            below
              .map(
                (one) =>
                  `.SS ${quoted(one.path.slice(1).join(' '))}\n${paragraphs(one.description)}\n${operands(one)}`,
              )
              .join('\n'),
          ),
        ]),
    exitStatus(),
    section('SEE ALSO', '.BR sallyport (1)'),
  ]);
}

function synopsis({ path, arguments: args, options: all }: CommandNode): string {
  const shown = args.map(({ name, required, variadic }) => {
    const word = `\\fI${escaped(name)}\\fR${variadic ? ' ...' : ''}`;
    return required ? word : `[${word}]`;
  });
  const wants = all.length > 1 ? ['[\\fIoption\\fR ...]'] : [];
  return [`\\fB${escaped(path.join(' '))}\\fR`, ...wants, ...shown].join(' ');
}

/** Arguments that have something to say, then options. */
function operands(command: CommandNode): string {
  const args = command.arguments
    .filter(({ description }) => description !== '')
    .map(({ name, description, choices }) => {
      const from = choices.length === 0 ? '' : ` One of ${choices.join(', ')}.`;
      return `.TP\n.I ${escaped(name)}\n${escaped(sentence(description) + from)}`;
    });
  return [...args, options(command)].join('\n');
}

function options(command: CommandNode): string {
  return command.options
    .map(({ short, long, value, description, default: standard }) => {
      const flags = [short, long].filter((one) => one !== null).map((one) => `\\fB${escaped(one)}\\fR`);
      const wants = value === null ? '' : ` \\fI${escaped(value.replaceAll(/[<>]/g, ''))}\\fR`;
      const says = sentence(description) + (standard === null ? '' : ` Default: ${standard}.`);
      return `.TP\n${flags.join(', ')}${wants}\n${escaped(says)}`;
    })
    .join('\n');
}

function exitStatus(): string {
  return section(
    'EXIT STATUS',
    definitions(
      Object.entries(ExitCode).map(([name, code]) => [
        String(code),
        EXIT_STATUS[name as keyof typeof ExitCode],
      ]),
    ),
  );
}

function header(name: string, version: string): string {
  return `.\\" Made by scripts/manual.mjs from the commands themselves.\n.TH ${quoted(name.toUpperCase())} 1 "" ${quoted(`sallyport ${version}`)} "Sallyport"`;
}

function section(title: string, text: string): string {
  return `.SH ${quoted(title)}\n${text}`;
}

function definitions(all: readonly (readonly [string, string])[]): string {
  return all.map(([what, text]) => `.TP\n.B ${escaped(what)}\n${escaped(text)}`).join('\n');
}

function paragraphs(text: string): string {
  return text
    .split('\n')
    .map((line) => escaped(sentence(line)))
    .join('\n.PP\n');
}

function lines(...all: readonly string[]): string {
  return all.map((line) => (line.startsWith('.') ? line : escaped(line))).join('\n');
}

/** Ends with a full stop. */
function sentence(text: string): string {
  return text === '' || /[.:!?]$/.test(text) ? text : `${text}.`;
}

function quoted(text: string): string {
  return `"${escaped(text).replaceAll('"', '\\(dq')}"`;
}

/** Text for man(7): backslashes and dashes as they are, and no line that begins as a request does. */
function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^(['.])/gm, '\\&$1')
    .replaceAll(/[’]/g, "'")
    .replaceAll('…', '...');
}

function page(parts: readonly string[]): string {
  return `${parts.join('\n')}\n`;
}
