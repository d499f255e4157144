import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { getSystemErrorName } from 'node:util';
import { type Leg, type LegEvents, StreamLeg } from './leg.ts';
import { READ_BYTES } from './limits.ts';
import { type ReadBuffers, readBuffers } from './read-buffers.ts';

/*
 * The quick way between two sockets. A `net.Socket` allocates memory for each read and takes three objects and a turn
 * of its queue for each write, which is most of what a relay in Node costs beside the kernel. Here reads go into memory
 * that is used again, and writes go straight to the socket's handle; all else (errors, ends, what waits for a slow
 * peer) stays with the `net.Socket`.
 *
 * For that, this file, and no other, uses what Node does not promise to keep: the stream handle of a socket and the
 * binding `stream_wrap`. What it needs is looked at before it is used, `worksHere` tries it on a connection of this
 * process, and where anything is missing or other than expected, a relay runs on plain streams.
 */

/** Node's handle of a TCP or Unix socket, as far as it is used here (`StreamBase`). */
interface SocketHandle {
  /** Kept by `net.Socket`: whether the handle is being read. */
  reading: boolean;
  /** Called for each read, the length (or a negative error) in `streamBaseState`. What it returns is read into next. */
  onread: (this: SocketHandle, arrayBuffer: ArrayBuffer | undefined) => Buffer | undefined;
  readStart(): number;
  readStop(): number;
  /** Reads go into this memory from now on. May be called once. */
  useUserBuffer(buffer: Buffer): void;
  /** Returns 0 or a negative error. `streamBaseState` tells whether the request is under way (or else done). */
  writeBuffer(request: WriteRequest, bytes: Buffer): number;
}

interface WriteRequest {
  oncomplete: ((this: WriteRequest, status: number) => void) | null;
  /** What must not be collected while the write is under way. */
  bytes?: Buffer;
}

interface StreamBinding {
  readonly WriteWrap: new () => WriteRequest;
  readonly streamBaseState: Int32Array;
  readonly kReadBytesOrError: number;
  readonly kLastWriteWasAsync: number;
}

const binding = findBinding();

/** Turned off where the trial failed. */
let usable = binding !== null;

function findBinding(): StreamBinding | null {
  const find = (process as unknown as { binding?: (name: string) => Partial<StreamBinding> }).binding;
  if (typeof find !== 'function') return null;
  try {
    const found = find.call(process, 'stream_wrap');
    const { WriteWrap, streamBaseState, kReadBytesOrError, kLastWriteWasAsync } = found;
    const fits =
      typeof WriteWrap === 'function' &&
      ArrayBuffer.isView(streamBaseState) &&
      typeof kReadBytesOrError === 'number' &&
      typeof kLastWriteWasAsync === 'number';
    return fits ? (found as StreamBinding) : null;
  } catch {
    return null;
  }
}

/** The handle of a socket that can be taken over as it is; null for all else. */
export function handleOf(stream: Duplex): SocketHandle | null {
  if (!usable || stream.constructor !== Socket) return null;
  const socket = stream as Socket & { readonly _handle?: Partial<SocketHandle> | null };
  if (socket.destroyed || socket.connecting || socket.readableEnded || socket.writableEnded) return null;
  if (socket.readableLength > 0 || socket.writableLength > 0) return null;
  const handle = socket._handle;
  if (handle === null || handle === undefined) return null;
  const fits =
    typeof handle.reading === 'boolean' &&
    typeof handle.onread === 'function' &&
    typeof handle.readStart === 'function' &&
    typeof handle.readStop === 'function' &&
    typeof handle.useUserBuffer === 'function' &&
    typeof handle.writeBuffer === 'function';
  return fits ? (handle as SocketHandle) : null;
}

/** The quickest leg that `stream` can be. It must not be read, and nothing of it may wait to be written. */
export function legOf(stream: Duplex): Leg {
  const handle = handleOf(stream);
  return handle === null ? new StreamLeg(stream) : new SocketLeg(stream as Socket, handle);
}

/** A leg on the handle of a socket. Takes the reading over from the socket, which must not be read elsewhere then. */
export class SocketLeg implements Leg {
  readonly #socket: Socket;
  readonly #handle: SocketHandle;
  readonly #state: Int32Array;
  readonly #readAt: number;
  readonly #asyncAt: number;
  readonly #buffers: ReadBuffers = readBuffers;
  #events: LegEvents | null = null;
  /** How the socket itself takes a read: for ends and errors. */
  readonly #socketRead: SocketHandle['onread'];
  #small: Buffer;
  #buffer: Buffer;
  #request: WriteRequest;
  /** Our writes that the kernel did not take at once. */
  #writing = 0;

  /** `handle` is what `handleOf` found. */
  constructor(socket: Socket, handle: SocketHandle) {
    if (binding === null) throw new Error('this Node has no binding of the kind that a socket leg needs');
    this.#socket = socket;
    this.#handle = handle;
    this.#state = binding.streamBaseState;
    this.#readAt = binding.kReadBytesOrError;
    this.#asyncAt = binding.kLastWriteWasAsync;
    this.#request = new binding.WriteWrap();
    this.#small = this.#buffers.small();
    this.#buffer = this.#small;
    this.#socketRead = handle.onread;
  }

  get destroyed(): boolean {
    return this.#socket.destroyed;
  }

  get readableEnded(): boolean {
    return this.#socket.readableEnded;
  }

  get writableEnded(): boolean {
    return this.#socket.writableEnded;
  }

  get needsDrain(): boolean {
    return this.#writing > 0 || this.#socket.writableNeedDrain;
  }

  start(events: LegEvents): void {
    const socket = this.#socket;
    const handle = this.#handle;
    this.#events = events;
    socket.on('end', events.ended);
    socket.on('error', events.failed);
    socket.on('close', this.#onClose);
    socket.on('drain', events.drained);
    if (handle.reading) handle.readStop();
    handle.reading = false;
    handle.onread = this.#onRead;
    handle.useUserBuffer(this.#buffer);
    this.resume();
  }

  write(bytes: Buffer): boolean {
    const socket = this.#socket;
    if (socket.destroyed || socket.writableEnded || bytes.length === 0) return true;
    if (this.#writing > 0 || socket.writableLength > 0) return socket.write(this.#buffers.lasting(bytes));
    const request = this.#request;
    const error = this.#handle.writeBuffer(request, bytes);
    if (error !== 0) {
      socket.destroy(systemError('write', error));
      return true;
    }
    if (this.#state[this.#asyncAt] === 0) return true;
    const kept = this.#buffers.keep(bytes);
    this.#writing += 1;
    request.bytes = bytes;
    request.oncomplete = (status) => this.#written(status, kept);
    this.#request = new binding!.WriteWrap();
    return false;
  }

  pause(): void {
    const handle = this.#handle;
    if (!handle.reading || this.#socket.destroyed) return;
    handle.reading = false;
    handle.readStop();
  }

  resume(): void {
    const handle = this.#handle;
    if (handle.reading || this.#socket.destroyed) return;
    handle.reading = true;
    const error = handle.readStart();
    if (error !== 0) this.#socket.destroy(systemError('read', error));
  }

  end(): void {
    if (!this.#socket.writableEnded && !this.#socket.destroyed) this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  readonly #onRead = (arrayBuffer: ArrayBuffer | undefined): Buffer | undefined => {
    const length = this.#state[this.#readAt]!;
    if (length <= 0) {
      this.#socketRead.call(this.#handle, arrayBuffer);
      return undefined;
    }
    const buffer = this.#buffer;
    const buffers = this.#buffers;
    let kept: boolean;
    buffers.enter(buffer);
    try {
      this.#events!.data(length === buffer.length ? buffer : buffer.subarray(0, length));
    } finally {
      kept = buffers.leave();
    }
    return this.#next(buffer, length, kept);
  };

  /** Where the next read goes, if it is elsewhere. */
  #next(buffer: Buffer, length: number, kept: boolean): Buffer | undefined {
    const buffers = this.#buffers;
    const isSmall = buffer === this.#small;
    if (kept && isSmall) this.#small = buffers.small();
    // A buffer that was filled has more behind it; one that was hardly used is needed by others.
    const burst = length === buffer.length || (!isSmall && length >= READ_BYTES && buffers.plenty);
    if (burst) {
      if (!isSmall && !kept) return undefined;
      this.#buffer = buffers.burst();
    } else {
      if (isSmall && !kept) return undefined;
      if (!isSmall && !kept) buffers.giveBack(buffer);
      this.#buffer = this.#small;
    }
    return this.#buffer;
  }

  #written(status: number, kept: Buffer | null): void {
    this.#writing -= 1;
    if (kept !== null) this.#buffers.giveBack(kept);
    if (this.#socket.destroyed) return;
    if (status < 0) this.#socket.destroy(systemError('write', status));
    else if (!this.needsDrain) this.#events!.drained();
  }

  readonly #onClose = (): void => {
    if (this.#buffer !== this.#small) this.#buffers.giveBack(this.#buffer);
    this.#buffer = this.#small;
    this.#events!.closed();
  };
}

function systemError(syscall: string, errno: number): NodeJS.ErrnoException {
  const code = getSystemErrorName(errno);
  return Object.assign(new Error(`${syscall} ${code}`), { errno, code, syscall });
}

/** How long the trial may take; it takes a few milliseconds. */
const TRIAL_MS_MAX = 2_000;
/** Many reads, in small buffers and large ones. */
const TRIAL_BYTES = 1024 * 1024;

/**
 * Tries the handles on a connection within this process: bytes there and back, and an end. Where that fails, `legOf` makes
 * stream legs from then on. Resolves to whether it went well.
 */
export async function socketLegsWork(): Promise<boolean> {
  if (!usable) return false;
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true });
  let timer: NodeJS.Timeout | undefined;
  try {
    const late = new Promise<false>((resolve) => {
      timer = setTimeout(() => resolve(false), TRIAL_MS_MAX);
    });
    usable = await Promise.race([echoes(server, sockets), late]);
  } catch {
    usable = false;
  } finally {
    clearTimeout(timer);
    for (const socket of sockets) socket.destroy();
    server.close();
  }
  return usable;
}

async function echoes(server: Server, sockets: Socket[]): Promise<boolean> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const near = connect({
    port: (server.address() as AddressInfo).port,
    host: '127.0.0.1',
    allowHalfOpen: true,
  });
  sockets.push(near);
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [
    [Socket],
    unknown,
  ];
  sockets.push(far);
  const handle = handleOf(far);
  if (handle === null) return false;
  // The far end sends back what it reads.
  const leg = new SocketLeg(far, handle);
  leg.start({
    data: (chunk) => {
      if (!leg.write(chunk)) leg.pause();
    },
    ended: () => leg.end(),
    failed: () => {},
    closed: () => {},
    drained: () => leg.resume(),
  });
  const sent = Buffer.alloc(TRIAL_BYTES);
  for (let at = 0; at < TRIAL_BYTES; at += 4) sent.writeUInt32LE(at, at);
  near.end(sent);
  let at = 0;
  for await (const chunk of near as AsyncIterable<Buffer>) {
    if (chunk.compare(sent, at, at + chunk.length) !== 0) return false;
    at += chunk.length;
  }
  return at === TRIAL_BYTES;
}
