import type { Command } from 'commander';
import { buildFacts } from '../version.ts';

export function register(program: Command): void {
  program
    .command('version')
    .summary('the version, and what it was built from')
    .description('Prints the version, the revision and date it was built from, and what it runs on.')
    .option('--json', 'the same as JSON')
    .action((options: { json?: boolean }) => {
      const facts = buildFacts();
      if (options.json === true) console.log(JSON.stringify(facts));
      else
        console.log(
          [
            `sallyport ${facts.version}`,
            `revision ${facts.revision ?? 'unknown'}`,
            `built    ${facts.built ?? 'unknown'}`,
            `node     ${facts.node}`,
            `openssl  ${facts.openssl}`,
            `platform ${facts.platform}`,
          ].join('\n'),
        );
    });
}
