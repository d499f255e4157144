import { Refusal } from '../error.ts';

/**
 * The `options` parameter of a startup packet: command-line switches for the server process ("pg_split_opts" and
 * "process_postgres_switches" in its source). Separated by white space; a backslash takes the next character as it is.
 */

/** One setting; the text is one byte a character (latin1), so that no encoding is assumed. */
export interface Setting {
  readonly name: string;
  readonly value: string;
}

/**
 * Takes `options` apart. Only settings are let through, in the forms `-c name=value`, `-cname=value` and `--name=value`:
 * the other switches are for those who run the server. Throws a `Refusal` `option_not_allowed` for anything else.
 */
export function parseOptions(options: Buffer): Setting[] {
  const words = splitOptions(options.toString('latin1'));
  const settings: Setting[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    let text: string | undefined;
    if (word === '-c') text = words[++i];
    else if (word.startsWith('-c')) text = word.slice(2);
    else if (word.startsWith('--')) text = word.slice(2);
    else throw notAllowed(`the switch "${printable(word)}" is not allowed in options`);
    const equals = text?.indexOf('=') ?? -1;
    if (text === undefined || equals < 1) throw notAllowed('a setting in options has no name or no value');
    settings.push({ name: text.slice(0, equals).replaceAll('-', '_'), value: text.slice(equals + 1) });
  }
  return settings;
}

/** The opposite of `parseOptions`. */
export function formatOptions(settings: readonly Setting[]): Buffer {
  const words = settings.map(({ name, value }) => `-c ${escapeWord(`${name}=${value}`)}`);
  return Buffer.from(words.join(' '), 'latin1');
}

/** The name under which the server knows a setting: case does not count, and dashes are underscores. */
export function foldName(name: string): string {
  return name.toLowerCase().replaceAll('-', '_');
}

function splitOptions(text: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (let i = 0; i < text.length; i++) {
    const character = text[i]!;
    if (isSpace(character)) {
      if (word !== null) words.push(word);
      word = null;
    } else if (character === '\\') {
      // A lone backslash at the end is dropped, as the server does.
      word = (word ?? '') + (text[++i] ?? '');
    } else word = (word ?? '') + character;
  }
  if (word !== null) words.push(word);
  return words;
}

function escapeWord(word: string): string {
  return word.replaceAll(/[\\ \t\n\v\f\r]/g, '\\$&');
}

/** `isspace` of the C locale. */
function isSpace(character: string): boolean {
  return character === ' ' || (character >= '\t' && character <= '\r');
}

function notAllowed(message: string): Refusal {
  return new Refusal('option_not_allowed', message, {
    hint: 'Only settings are taken: -c name=value or --name=value.',
  });
}

function printable(text: string): string {
  return text.slice(0, 40).replaceAll(/[^ -~]/g, '?');
}
