import { textValue } from './fields.ts';
import { SecretError, type SecretProvider, type SecretReference, type SecretValue } from './provider.ts';

/** Environment variables: the path is the variable's name. */
export class EnvSecrets implements SecretProvider {
  readonly name: string;
  readonly #environment: Readonly<Record<string, string | undefined>>;

  constructor(name: string, environment: Readonly<Record<string, string | undefined>> = process.env) {
    this.name = name;
    this.#environment = environment;
  }

  async fetch(reference: SecretReference): Promise<SecretValue> {
    const text = this.#environment[reference.path];
    if (text === undefined) {
      throw new SecretError(this.name, `the environment variable ${reference.path} is not set`, {
        code: 'not_found',
        hint: 'Set it for the process that runs Sallyport (Environment= or EnvironmentFile= in a systemd unit).',
      });
    }
    return textValue(reference, Buffer.from(text, 'utf8'), null);
  }

  async check(): Promise<void> {}

  async close(): Promise<void> {}
}
