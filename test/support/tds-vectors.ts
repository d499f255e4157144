import { readFileSync } from 'node:fs';

interface Vector {
  readonly id: string;
  readonly hex: string;
}

const VECTORS = JSON.parse(
  readFileSync(new URL('../golden/tds-vectors.json', import.meta.url), 'utf8'),
) as Vector[];

/** The bytes of a vector of `test/golden/tds-vectors.json`, as they stand there. */
export function vector(id: string): Buffer {
  const found = VECTORS.find((entry) => entry.id === id);
  if (found === undefined) throw new Error(`there is no vector ${id}`);
  return Buffer.from(found.hex, 'hex');
}

/** Its message payload: those that were recorded as a packet lose the header. */
export function vectorPayload(id: string): Buffer {
  const bytes = vector(id);
  return id.startsWith('lab-') || id.startsWith('nlmp-') || id.startsWith('ntlm-')
    ? bytes
    : bytes.subarray(8);
}

export function vectorIds(): string[] {
  return VECTORS.map(({ id }) => id);
}
