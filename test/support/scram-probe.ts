import { once } from 'node:events';
import { connect } from 'node:net';
import { int4 } from './postgres-observer.ts';

/** Asks a PostgreSQL server for its first SCRAM message, and goes. */
export class PostgresScramProbe {
  readonly #host: string;
  readonly #port: number;

  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }

  /** Salt (Base64) and iterations that it offers for a user. */
  async offer(user: string): Promise<{ salt: string; iterations: string }> {
    const socket = connect(this.#port, this.#host);
    await once(socket, 'connect');
    const startup = Buffer.concat([int4(196608), Buffer.from(`user\0${user}\0database\0appdb\0\0`)]);
    socket.write(Buffer.concat([int4(startup.length + 4), startup]));
    await once(socket, 'data');
    const first = Buffer.from('n,,n=,r=abcdefghijklmnopqrstuvwx');
    const body = Buffer.concat([Buffer.from('SCRAM-SHA-256\0'), int4(first.length), first]);
    socket.write(Buffer.concat([Buffer.from('p'), int4(body.length + 4), body]));
    const [answer] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    const match = /s=([^,]+),i=(\d+)/.exec(answer.toString('latin1'));
    if (match === null) throw new Error(`no SCRAM offer: ${answer.toString('latin1')}`);
    return { salt: match[1]!, iterations: match[2]! };
  }
}
