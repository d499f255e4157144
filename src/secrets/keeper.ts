import { readFile } from 'node:fs/promises';
import type { KeyValueStorage, SecretManagerOptions } from '@keeper-security/secrets-manager-core';
import type { Secret } from '../../protocols/secret.ts';
import { fieldValue, secretFields, textValue } from './fields.ts';
import { HttpClient } from './http.ts';
import {
  SecretError,
  type SecretErrorCode,
  type SecretProvider,
  type SecretReference,
  type SecretValue,
} from './provider.ts';

export interface KeeperSettings {
  /** Reference to the device configuration, in another provider. */
  readonly config?: string | undefined;
  readonly config_file?: string | undefined;
}

export interface KeeperPorts {
  readonly secret: (reference: string, signal: AbortSignal) => Promise<Secret>;
  /** Authorities for Keeper's servers (PEM), where they are not those of Node. */
  readonly ca?: Buffer;
}

type KeeperSdk = typeof import('@keeper-security/secrets-manager-core');
type KeeperRecord = Awaited<ReturnType<KeeperSdk['getSecrets']>>['records'][number];

/** Keeper notation names the kind of what is taken after the record: `UID/field/password`. */
const NOTATION = /\/(?:type|title|notes|file|field|custom_field)(?:\/|$)/;

/** What the SDK's error texts mean, by the words they begin with or the `result_code` of the server. */
const ERRORS: readonly (readonly [pattern: RegExp, code: SecretErrorCode, hint: string])[] = [
  [
    /no records match|no fields matching|no files matching|no file attachments|out of bounds|Expected \/field/,
    'not_found',
    'The record must be shared with the application of this device, and have that field.',
  ],
  [/multiple (?:records|fields|files)/, 'malformed', "Use the record's UID, and a label that is there once."],
  [
    /Notation error|[Ii]nvalid notation|notation is invalid/,
    'malformed',
    'Write UID/field/password, UID/custom_field/LABEL[0][property] …',
  ],
  [
    /access_denied|invalid_client|signature|Unable to load the key|throttled|hostname is missing|not supported/,
    'denied',
    'The device was removed or its configuration is not whole: make a new one in the Secrets Manager application.',
  ],
];

/**
 * The SDK keeps keys of records in memory that all its users share; they are cleared between fetches, which therefore
 * run one after another in the whole process.
 */
let last: Promise<unknown> = Promise.resolve();

/** Keeper Secrets Manager by its own SDK. */
export class KeeperSecrets implements SecretProvider {
  readonly name: string;
  readonly #settings: KeeperSettings;
  readonly #ports: KeeperPorts;
  readonly #client: HttpClient;
  #storage: Promise<KeyValueStorage> | null = null;

  constructor(name: string, settings: KeeperSettings, ports: KeeperPorts) {
    this.name = name;
    this.#settings = settings;
    this.#ports = ports;
    this.#client = new HttpClient(name, ports.ca === undefined ? {} : { ca: ports.ca });
  }

  async fetch(reference: SecretReference, signal: AbortSignal): Promise<SecretValue> {
    return this.#exclusive(signal, async (sdk, options) => {
      if (NOTATION.test(reference.path)) {
        const results = await sdk.getNotationResults(options, `keeper://${reference.path}`);
        const [text] = results;
        if (text === undefined || results.length > 1) {
          const count = results.length === 0 ? 'no value' : 'several values';
          throw new SecretError(this.name, `${reference.path} has ${count}`, {
            code: 'field_not_found',
            hint: 'Add an index to take one: …/field/password[0]',
          });
        }
        return textValue(reference, Buffer.from(text, 'utf8'), null);
      }
      const record = await this.#record(sdk, options, reference.path);
      return fieldValue(reference, secretFields(fieldsOf(record)), null);
    });
  }

  async check(signal: AbortSignal): Promise<void> {
    // A record that is not there costs the server little, and proves the device.
    await this.#exclusive(signal, (sdk, options) => sdk.getSecrets(options, ['AAAAAAAAAAAAAAAAAAAAAA']));
  }

  async close(): Promise<void> {
    this.#client.close();
    this.#storage = null;
  }

  async #record(sdk: KeeperSdk, options: SecretManagerOptions, path: string): Promise<KeeperRecord> {
    const isUid = /^[A-Za-z0-9_-]{22}$/.test(path);
    let { records } = await sdk.getSecrets(options, isUid ? [path] : undefined);
    if (!isUid) records = records.filter((record) => record.data.title === path);
    // One record that is shared twice comes twice.
    const uids = new Set(records.map((record) => record.recordUid));
    const [record] = records;
    if (record !== undefined && uids.size === 1) return record;
    throw new SecretError(
      this.name,
      record === undefined
        ? `Keeper has no record ${path} for this device`
        : `several records are called ${path}`,
      {
        code: record === undefined ? 'not_found' : 'malformed',
        hint:
          record === undefined
            ? "The record's folder must be shared with the application of this device."
            : "Use the record's UID.",
      },
    );
  }

  async #exclusive<T>(
    signal: AbortSignal,
    act: (sdk: KeeperSdk, options: SecretManagerOptions) => Promise<T>,
  ): Promise<T> {
    const sdk = await import('@keeper-security/secrets-manager-core');
    const turn = last.then(async () => {
      if (signal.aborted)
        throw new SecretError(this.name, 'Keeper did not answer in time', { code: 'timeout' });
      try {
        return await act(sdk, await this.#options(sdk, signal));
      } catch (error) {
        throw this.#failure(error as Error);
      } finally {
        sdk.platform.cleanKeyCache();
      }
    });
    last = turn.catch(() => {});
    return turn;
  }

  async #options(sdk: KeeperSdk, signal: AbortSignal): Promise<SecretManagerOptions> {
    this.#storage ??= this.#openStorage(sdk, signal);
    const storage = await this.#storage.catch((error: unknown) => {
      this.#storage = null;
      throw error;
    });
    return {
      storage,
      queryFunction: async (url, transmissionKey, payload) => {
        const response = await this.#client.send(
          {
            method: 'POST',
            url: new URL(url),
            headers: {
              'content-type': 'application/octet-stream',
              PublicKeyId: String(transmissionKey.publicKeyId),
              TransmissionKey: Buffer.from(transmissionKey.encryptedKey).toString('base64'),
              Authorization: `Signature ${Buffer.from(payload.signature).toString('base64')}`,
            },
            body: payload.payload,
          },
          signal,
        );
        if (response.status >= 500)
          throw new SecretError(this.name, `Keeper answered HTTP ${response.status}`, {
            code: 'unavailable',
          });
        return { statusCode: response.status, headers: [], data: new Uint8Array(response.body) };
      },
      // Waiting for a throttled server is the resolver's, within its deadline.
      throttleSleep: async () => {
        throw new SecretError(this.name, 'Keeper asks for fewer requests', { code: 'unavailable' });
      },
    };
  }

  async #openStorage(sdk: KeeperSdk, signal: AbortSignal): Promise<KeyValueStorage> {
    const { config, config_file } = this.#settings;
    if (config_file !== undefined) {
      await this.#mustBeConfiguration(await this.#readConfiguration(config_file), config_file);
      return sdk.localConfigStorage(config_file);
    }
    const secret = await this.#ports.secret(config ?? '', signal);
    const text = secret.expose().toString('utf8').trim();
    secret.wipe();
    const json = text.startsWith('{') ? text : Buffer.from(text, 'base64').toString('utf8');
    await this.#mustBeConfiguration(json, config ?? '');
    return sdk.loadJsonConfig(json);
  }

  async #readConfiguration(file: string): Promise<string> {
    try {
      return await readFile(file, 'utf8');
    } catch (error) {
      throw new SecretError(this.name, `${file} cannot be read (${(error as NodeJS.ErrnoException).code})`, {
        code: 'denied',
      });
    }
  }

  async #mustBeConfiguration(text: string, source: string): Promise<void> {
    try {
      const parsed = JSON.parse(text) as Record<string, unknown>;
      if (typeof parsed['clientId'] === 'string' && typeof parsed['privateKey'] === 'string') return;
    } catch {
      // Said below: the parser's message quotes what it read.
    }
    throw new SecretError(this.name, `${source} is no device configuration of Keeper Secrets Manager`, {
      code: 'denied',
      hint: 'It is what "ksm profile export" or "keeper secrets-manager client add --config-init json" gives.',
    });
  }

  #failure(error: Error): SecretError {
    if (error instanceof SecretError) return error;
    const known = ERRORS.find(([pattern]) => pattern.test(error.message));
    if (known !== undefined) {
      // The server answers with JSON, the SDK with a sentence; neither holds a value of a record.
      return new SecretError(this.name, `Keeper: ${errorText(error.message)}`, {
        code: known[1],
        hint: known[2],
      });
    }
    return new SecretError(this.name, `Keeper could not be asked (${error.name})`, {
      code: 'unavailable',
      cause: error,
    });
  }
}

/** Fields of a record by label and type: the first of each name counts, standard fields before custom ones. */
function fieldsOf(record: KeeperRecord): Record<string, unknown> {
  const fields: Record<string, unknown> = Object.create(null);
  const data = record.data as {
    fields?: { type?: string; label?: string; value?: unknown[] }[];
    custom?: { type?: string; label?: string; value?: unknown[] }[];
  };
  for (const { type, label, value } of [...(data.fields ?? []), ...(data.custom ?? [])]) {
    const first = value?.[0];
    if (first === undefined || first === null) continue;
    for (const name of [label, type])
      if (name !== undefined && name !== '')
        fields[name] ??= typeof first === 'object' ? JSON.stringify(first) : first;
  }
  return fields;
}

function errorText(message: string): string {
  try {
    const answer = JSON.parse(message) as Record<string, unknown>;
    const code = answer['result_code'] ?? answer['error'];
    if (typeof code === 'string') return code;
  } catch {
    // A sentence of the SDK.
  }
  return message.slice(0, 200);
}
