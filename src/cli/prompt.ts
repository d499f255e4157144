import type { ReadStream } from 'node:tty';

/** A secret typed or piped in is read up to this size. Ours. */
export const SECRET_INPUT_BYTES_MAX = 64 * 1024;

/** The person pressed Ctrl-C at a prompt. */
export class PromptCancelled extends Error {
  constructor() {
    super('cancelled');
    this.name = 'PromptCancelled';
  }
}

/**
 * Asks for a line on the terminal without showing what is typed. Backspace and Ctrl-U work; Ctrl-C rejects with
 * `PromptCancelled`.
 */
export function promptHidden(
  question: string,
  input: ReadStream,
  output: NodeJS.WritableStream,
): Promise<string> {
  output.write(question);
  input.setRawMode(true);
  input.resume();
  let typed = '';
  // A long paste comes in pieces that may end in the middle of a character.
  const decoder = new TextDecoder();
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void): void => {
      input.off('data', onData);
      input.setRawMode(false);
      input.pause();
      output.write('\n');
      finish();
    };
    const onData = (chunk: Buffer): void => {
      for (const character of decoder.decode(chunk, { stream: true })) {
        if (character === '\r' || character === '\n' || character === '\u0004') {
          settle(() => resolve(typed));
          return;
        }
        if (character === '\u0003') {
          settle(() => reject(new PromptCancelled()));
          return;
        }
        if (character === '\u007f' || character === '\b') typed = [...typed].slice(0, -1).join('');
        else if (character === '\u0015') typed = '';
        else typed += character;
      }
    };
    input.on('data', onData);
  });
}

/** All of a stream as UTF-8 text, without one line end at its end. Rejects beyond `SECRET_INPUT_BYTES_MAX`. */
export async function readAll(input: AsyncIterable<Buffer | string>): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of input) {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    chunks.push(bytes);
    length += bytes.length;
    if (length > SECRET_INPUT_BYTES_MAX)
      throw new Error(`a secret is at most ${SECRET_INPUT_BYTES_MAX / 1024} KiB`);
  }
  return Buffer.concat(chunks)
    .toString('utf8')
    .replace(/\r?\n$/, '');
}
