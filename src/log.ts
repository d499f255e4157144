import { type DestinationStream, type Logger, pino } from 'pino';
import pretty from 'pino-pretty';

export type Log = Logger;

/** Keys whose values never reach a log line, wherever they stand. A `Secret` prints as `[secret]` by itself. */
const REDACTED = ['password', 'token', 'secret', 'authorization', 'cookie', 'text', 'parameters'];

export type LogFormat = 'json' | 'pretty';

/**
 * The operator's log: one JSON object a line on standard output, or lines for people.
 *
 * `destination` replaces standard output, for tests and for commands whose output is their result.
 */
export function makeLog(format: LogFormat, level: string, destination?: DestinationStream): Log {
  const options = {
    level,
    base: null,
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: REDACTED.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: '[redacted]' },
  };
  if (format === 'json') return destination ? pino(options, destination) : pino(options, process.stdout);
  const stream = pretty({
    colorize: destination === undefined && process.stdout.isTTY === true,
    translateTime: 'SYS:HH:MM:ss.l',
    singleLine: true,
    sync: true,
    ...(destination ? { destination: destination as never } : {}),
  });
  return pino(options, stream);
}
