import type { Command } from 'commander';
import { dataDirectory } from './data-directory.ts';
import { type GatewayClient, gatewayClient } from './gateway-client.ts';

export interface ClientCommandOptions {
  readonly config?: string;
  readonly dataDir?: string;
  readonly gateway?: string;
  readonly json?: boolean;
}

/** Adds the options by which a command finds its gateway. */
export function withGateway(command: Command): Command {
  return command
    .option('--gateway <url>', 'the gateway; default: that of the last login')
    .option('-c, --config <file>', "as operator on the gateway's own machine: its configuration")
    .option('--data-dir <dir>', "the same, by the gateway's data directory")
    .option('--json', 'the answer as JSON');
}

export async function clientFor(options: ClientCommandOptions): Promise<GatewayClient> {
  const local = options.config !== undefined || options.dataDir !== undefined;
  return gatewayClient({
    gateway: options.gateway,
    dataDir: local ? await dataDirectory(options) : undefined,
  });
}
