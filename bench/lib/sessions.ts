import { connect } from 'node:net';
import mysql from 'mysql2/promise';
import type { Backend, Peer } from './peers.ts';
import { REQUESTS, TdsConnection } from './tds.ts';

/** A session that stays open, as cheap for its own process as can be. */
export interface IdleSession {
  /** One small statement, until its answer is there. */
  statement(): Promise<void>;
  close(): Promise<void>;
}

const TERMINATE = Buffer.from('5800000004', 'hex');
const SELECT = Buffer.from('510000000d73656c656374203100', 'hex');
const READY = Buffer.from('5a0000000549', 'hex');

/** PostgreSQL, in the clear, to one that asks for no password. */
export async function openPostgres(peer: Peer, { user, database }: Backend): Promise<IdleSession> {
  const socket = connect({ host: '127.0.0.1', port: peer.port, noDelay: true });
  const answer = (bytes: Buffer): Promise<void> =>
    new Promise((resolve, reject) => {
      const fail = (): void => reject(new Error(`${peer.name} closed a connection`));
      const hear = (chunk: Buffer): void => {
        if (!chunk.subarray(-READY.length).equals(READY)) return;
        socket.off('data', hear);
        socket.off('close', fail);
        resolve();
      };
      socket.on('data', hear);
      socket.once('close', fail);
      socket.write(bytes);
    });
  socket.on('error', () => {});
  const fields = Buffer.from(`user\0${user}\0database\0${database}\0\0`, 'utf8');
  const head = Buffer.alloc(8);
  head.writeInt32BE(head.length + fields.length, 0);
  head.writeInt32BE(196_608, 4);
  await answer(Buffer.concat([head, fields]));
  return {
    statement: () => answer(SELECT),
    close: () =>
      new Promise((resolve) => {
        socket.once('close', () => resolve());
        socket.end(TERMINATE);
      }),
  };
}

export async function openMysql(peer: Peer, { user, password, database }: Backend): Promise<IdleSession> {
  const connection = await mysql.createConnection({
    host: '127.0.0.1',
    port: peer.port,
    user,
    password,
    database,
  });
  connection.on('error', () => {});
  return {
    statement: async () => void (await connection.query('select 1')),
    close: () => connection.end(),
  };
}

export async function openTds(peer: Peer): Promise<IdleSession> {
  const connection = await TdsConnection.open(peer.port);
  return {
    statement: () => connection.exchange(REQUESTS.batch),
    close: () => connection.close(),
  };
}
