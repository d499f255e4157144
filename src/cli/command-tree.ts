import type { Argument, Command, Option } from 'commander';

/** A command as completion and manuals see it. */
export interface CommandNode {
  /** `sallyport recordings list`. */
  readonly path: readonly string[];
  readonly summary: string;
  readonly description: string;
  readonly arguments: readonly ArgumentNode[];
  readonly options: readonly OptionNode[];
  readonly commands: readonly CommandNode[];
}

export interface ArgumentNode {
  readonly name: string;
  readonly description: string;
  readonly required: boolean;
  readonly variadic: boolean;
  readonly choices: readonly string[];
}

export interface OptionNode {
  readonly short: string | null;
  readonly long: string | null;
  readonly description: string;
  /** What its value is called, with its brackets; null: it is a switch. */
  readonly value: string | null;
  readonly default: string | null;
  /** Its value is a file or a folder. */
  readonly isPath: boolean;
  readonly choices: readonly string[];
}

/** The tree of `command`, in the order in which the help shows it. Hidden commands and options are left out. */
export function commandTree(command: Command, above: readonly string[] = []): CommandNode {
  const path = [...above, command.name()];
  const help = command.createHelp();
  const children = help.visibleCommands(command).filter((child) => child.name() !== 'help');
  return {
    path,
    summary: command.summary() || command.description(),
    description: command.description(),
    arguments: command.registeredArguments.map(argumentNode),
    options: help.visibleOptions(command).map(optionNode),
    commands: children.map((child) => commandTree(child, path)),
  };
}

function argumentNode(argument: Argument): ArgumentNode {
  return {
    name: argument.name(),
    description: argument.description,
    required: argument.required,
    variadic: argument.variadic,
    choices: argument.argChoices ?? [],
  };
}

function optionNode(option: Option): OptionNode {
  const value = /[<[].*$/.exec(option.flags)?.[0] ?? null;
  return {
    short: option.short ?? null,
    long: option.long ?? null,
    description: option.description,
    value,
    default:
      option.defaultValue === undefined || option.defaultValue === false || Array.isArray(option.defaultValue)
        ? null
        : String(option.defaultValueDescription ?? option.defaultValue),
    isPath: value !== null && /file|folder|dir|path/i.test(value),
    choices: option.argChoices ?? [],
  };
}

/** `node` and every command below it. */
export function flattened(node: CommandNode): CommandNode[] {
  return [node, ...node.commands.flatMap(flattened)];
}
