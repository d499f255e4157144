import { type JournalEvent, timeMs } from '../events.ts';
import type { Sink, StreamedEvent } from './stream.ts';
import { post } from './webhook.ts';

export interface OtlpOptions {
  /** Of the collector; `/v1/logs` is appended where it has no path. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly gateway: string;
  readonly version: string;
}

/** SeverityNumber of the OpenTelemetry log data model. */
const SEVERITY_INFO = 9;
const SEVERITY_WARN = 13;

type Attribute = { key: string; value: { stringValue: string } | { intValue: string } };

/** OpenTelemetry logs: OTLP over HTTP in its JSON form. The body is the event as JSON, what one filters by is in attributes. */
export class OtlpSink implements Sink {
  readonly name: string;
  readonly #url: string;
  readonly #options: OtlpOptions;

  constructor(options: OtlpOptions) {
    const url = new URL(options.url);
    if (url.pathname === '/') url.pathname = '/v1/logs';
    this.#url = url.href;
    this.#options = options;
    this.name = `OpenTelemetry ${url.origin}${url.pathname}`;
  }

  async send(events: readonly StreamedEvent[]): Promise<void> {
    const { gateway, version, headers } = this.#options;
    const body = JSON.stringify({
      resourceLogs: [
        {
          resource: {
            attributes: [
              text('service.name', 'sallyport'),
              text('service.instance.id', gateway),
              text('service.version', version),
            ],
          },
          scopeLogs: [{ scope: { name: 'sallyport.recording' }, logRecords: events.map(logRecord) }],
        },
      ],
    });
    await post(this.name, this.#url, body, { 'content-type': 'application/json', ...headers });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function logRecord({ event, line }: StreamedEvent): object {
  const wrong = event.type === 'gap' || (event.type === 'statement_ended' && event.status !== 'ok');
  // Nanoseconds do not fit a double.
  const nanoseconds = BigInt(Math.round(timeMs(event.at) * 1000)) * 1000n;
  return {
    timeUnixNano: String(nanoseconds),
    observedTimeUnixNano: String(nanoseconds),
    severityNumber: wrong ? SEVERITY_WARN : SEVERITY_INFO,
    severityText: wrong ? 'WARN' : 'INFO',
    eventName: `sallyport.${event.type}`,
    body: { stringValue: line },
    attributes: attributesOf(event),
  };
}

function attributesOf(event: JournalEvent): Attribute[] {
  const attributes = [text('event.name', `sallyport.${event.type}`)];
  if ('session' in event) attributes.push(text('session.id', event.session));
  switch (event.type) {
    case 'session_started':
      attributes.push(text('user.name', event.principal), text('db.namespace', event.database ?? ''));
      attributes.push(text('db.system.name', event.engine), text('sallyport.resource', event.resource));
      break;
    case 'statement_started':
      attributes.push(integer('sallyport.seq', event.seq), text('db.query.text', event.text ?? ''));
      break;
    case 'statement_ended':
      attributes.push(integer('sallyport.seq', event.seq), text('sallyport.status', event.status));
      if (event.error !== null) attributes.push(text('db.response.status_code', event.error.code));
      break;
    default:
  }
  return attributes;
}

function text(key: string, value: string): Attribute {
  return { key, value: { stringValue: value } };
}

function integer(key: string, value: number): Attribute {
  return { key, value: { intValue: String(value) } };
}
