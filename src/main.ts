import { CommanderError } from 'commander';
import { makeProgram } from './cli/commands.ts';
import { ExitCode } from './cli/exit-codes.ts';

const asked = process.argv[2] ?? '';
const program = await makeProgram((name) => name === asked);

try {
  if (process.argv.length <= 2) program.outputHelp();
  else await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? ExitCode.ok : ExitCode.usage;
  else {
    console.error(`sallyport: ${error instanceof Error ? error.message : String(error)}`);
    if (process.env['SALLYPORT_DEBUG']) console.error(error);
    process.exitCode = ExitCode.failure;
  }
}
