import { Argument, type Command } from 'commander';
import { type CommandNode, commandTree, flattened, type OptionNode } from './command-tree.ts';
import { makeProgram } from './commands.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof SHELLS)[number];

export function register(program: Command): void {
  program
    .command('completion')
    .summary('completion for a shell')
    .description(
      [
        'Prints a script that completes commands, options and file names.',
        'bash: source <(sallyport completion bash), in ~/.bashrc.',
        'zsh: sallyport completion zsh > a file named _sallyport in a folder of $fpath.',
        'fish: sallyport completion fish > ~/.config/fish/completions/sallyport.fish.',
      ].join('\n'),
    )
    .addArgument(new Argument('<shell>', 'the shell').choices(SHELLS))
    .action(async (shell: Shell) => {
      process.stdout.write(completionScript(shell, commandTree(await makeProgram(() => true))));
    });
}

/** The script for `shell` that completes what `tree` holds. */
export function completionScript(shell: Shell, tree: CommandNode): string {
  switch (shell) {
    case 'bash':
      return bash(tree);
    case 'zsh':
      return `#compdef sallyport\n${zsh(tree)}\ncompdef _sallyport sallyport\n[ "$funcstack[1]" = "_sallyport" ] && _sallyport "$@"\n`;
    case 'fish':
      return fish(tree);
  }
}

function names(options: readonly OptionNode[]): string[] {
  return options.flatMap(({ short, long }) => [long, short].filter((one) => one !== null));
}

/** The words that may follow a command: its commands, its options, and choices of its first argument. */
function words(node: CommandNode): string[] {
  return [
    ...node.commands.map(({ path }) => path.at(-1)!),
    ...node.arguments.flatMap(({ choices }) => choices),
    ...names(node.options),
  ];
}

/** Options that want a value, by what kind: a file name, one of some words, anything. */
function valued(nodes: readonly CommandNode[]): OptionNode[] {
  return nodes.flatMap(({ options }) => options).filter(({ value }) => value !== null);
}

function bash(tree: CommandNode): string {
  const nodes = flattened(tree);
  const cases = nodes.map(
    (node) => `    '${node.path.slice(1).join(' ')}') words='${words(node).join(' ')}' ;;`,
  );
  const isCommand = nodes.slice(1).map((node) => `'${node.path.slice(1).join(' ')}'`);
  const files = unique(
    names(valued(nodes).filter(({ isPath, choices }) => isPath && choices.length === 0)),
  ).join('|');
  const others = unique(
    names(valued(nodes).filter(({ isPath, choices }) => !isPath && choices.length === 0)),
  ).filter((name) => !files.split('|').includes(name));
  return `# bash completion for sallyport
_sallyport() {
  local current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD-1]}" path='' words='' word next
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in --) return ;; -*) continue ;; esac
    next="\${path:+$path }$word"
    case "$next" in
      ${isCommand.join('|')}) path="$next" ;;
    esac
  done
  case "$previous" in
    ${files}) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
    ${others.join('|')}) return ;;
  esac
  case "$path" in
${cases.join('\n')}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _sallyport sallyport
`;
}

function zsh(node: CommandNode): string {
  const name = `_${node.path.join('_').replaceAll('-', '_')}`;
  const options = node.options.map((option) => `    ${zshOption(option)}`);
  const below = node.commands;
  if (below.length === 0) {
    const rest = node.arguments.map(({ name: what, choices, variadic, required }) => {
      const values = choices.length > 0 ? `(${choices.join(' ')})` : '_default';
      return `    '${variadic ? '*' : ''}:${required ? '' : ':'}${quoteZsh(what)}:${values}'`;
    });
    return `${name}() {\n  _arguments -s -S \\\n${[...options, ...rest].join(' \\\n')}\n}\n`;
  }
  const list = below.map(({ path, summary }) => `    '${path.at(-1)!}:${quoteZsh(summary)}'`);
  const cases = below.map(
    ({ path }) => `        ${path.at(-1)!}) _${path.join('_').replaceAll('-', '_')} ;;`,
  );
  return `${below.map(zsh).join('')}${name}() {
  local line state
  local -a commands=(
${list.join('\n')}
  )
  _arguments -C -S \\
${options.map((one) => `${one} \\`).join('\n')}
    '1:command:->command' \\
    '*::argument:->argument'
  case $state in
    command) _describe -t commands command commands ;;
    argument)
      case $line[1] in
${cases.join('\n')}
      esac ;;
  esac
}
`;
}

function zshOption({ short, long, description, value, isPath, choices }: OptionNode): string {
  const said = `[${quoteZsh(description)}]`;
  const wants =
    value === null
      ? ''
      : `:${quoteZsh(value.replaceAll(/[<>[\].]/g, ''))}:${choices.length > 0 ? `(${choices.join(' ')})` : isPath ? '_files' : ''}`;
  const flags = [short, long].filter((one) => one !== null);
  return flags.length === 2
    ? `'(${flags.join(' ')})'{${flags.join(',')}}'${said}${wants}'`
    : `'${flags[0]!}${said}${wants}'`;
}

/** Text within single quotes of zsh, in places where brackets and colons mean something. */
function quoteZsh(text: string): string {
  return text
    .split('\n')[0]!
    .replaceAll("'", "'\\''")
    .replaceAll(/([[\]:])/g, '\\$1');
}

function fish(tree: CommandNode): string {
  const lines = ['# fish completion for sallyport', 'complete -c sallyport -f'];
  for (const node of flattened(tree)) {
    const when = `-n '${fishCondition(node)}'`;
    for (const { path, summary } of node.commands)
      lines.push(`complete -c sallyport ${when} -a ${path.at(-1)!} -d '${quoteFish(summary)}'`);
    for (const { choices, name } of node.arguments)
      if (choices.length > 0)
        lines.push(`complete -c sallyport ${when} -a '${choices.join(' ')}' -d '${quoteFish(name)}'`);
    for (const option of node.options) {
      const { short, long, value, isPath, choices, description } = option;
      lines.push(
        [
          `complete -c sallyport ${when}`,
          short === null ? '' : ` -s ${short.slice(1)}`,
          long === null ? '' : ` -l ${long.slice(2)}`,
          value === null
            ? ''
            : isPath
              ? ' -r -F'
              : choices.length > 0
                ? ` -x -a '${choices.join(' ')}'`
                : ' -x',
          ` -d '${quoteFish(description)}'`,
        ].join(''),
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

/** True when the line so far names exactly this command. */
function fishCondition(node: CommandNode): string {
  const [, ...path] = node.path;
  if (path.length === 0) return '__fish_use_subcommand';
  const seen = path.map((word) => `__fish_seen_subcommand_from ${word}`);
  const below = node.commands.map((child) => child.path.at(-1)!);
  const none = below.length > 0 ? [`not __fish_seen_subcommand_from ${below.join(' ')}`] : [];
  return [...seen, ...none].join('; and ');
}

function quoteFish(text: string): string {
  return text.split('\n')[0]!.replaceAll('\\', '\\\\').replaceAll("'", "\\'");
}

function unique(all: readonly string[]): string[] {
  return [...new Set(all)];
}
