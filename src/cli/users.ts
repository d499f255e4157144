import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import { hashPassword } from '../access/passwords.ts';
import { promptHidden } from './prompt.ts';

/** Shorter ones are guessed. Ours; NIST SP 800-63B asks for eight. */
const PASSWORD_CHARACTERS_MIN = 10;

export function register(program: Command): void {
  const users = program
    .command('users')
    .summary('local users')
    .description('Local users of the configuration.');
  users
    .command('add')
    .argument('<name>', 'the user')
    .description(
      'Asks for a password and prints the lines to put under `users` of the configuration. Nothing is written.',
    )
    .option('-r, --role <role...>', 'roles for rules')
    .option('--generate', 'make a password and show it once')
    .option('--password-stdin', 'read the password from standard input')
    .action(add);
}

async function add(
  name: string,
  options: { role?: string[]; generate?: boolean; passwordStdin?: boolean },
): Promise<void> {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.@-]*$/.test(name))
    throw new Error('a user name begins with a letter or digit and has only those, and . _ @ -');
  const password = await passwordFor(name, options);
  if (password.length < PASSWORD_CHARACTERS_MIN)
    throw new Error(`a password needs at least ${PASSWORD_CHARACTERS_MIN} characters`);
  const hash = await hashPassword(password);
  if (options.generate === true) console.error(`Password (shown this once): ${password}`);
  console.error('Put this under "users:" in the configuration, then send the gateway a SIGHUP:');
  console.log(`  ${name}:\n    password: ${hash}\n    roles: [${(options.role ?? []).join(', ')}]`);
}

async function passwordFor(
  name: string,
  options: { generate?: boolean; passwordStdin?: boolean },
): Promise<string> {
  if (options.generate === true) return randomBytes(18).toString('base64url');
  if (options.passwordStdin === true || !process.stdin.isTTY) {
    let text = '';
    for await (const chunk of process.stdin) text += String(chunk);
    return text.replace(/\r?\n$/, '');
  }
  const first = await promptHidden(`Password for ${name}: `, process.stdin, process.stderr);
  const again = await promptHidden('Again: ', process.stdin, process.stderr);
  if (first !== again) throw new Error('the two are not the same');
  return first;
}
