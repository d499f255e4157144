import { PREPARED_STATEMENTS_MAX, PREPARED_TEXT_BYTES_MAX } from '../limits.ts';
import type { Parameter, Statement } from '../statement.ts';
import type { RowDescription } from './messages.ts';
import { BIND, PARSE } from './messages.ts';
import type { Operation, OperationQueue } from './operations.ts';
import { PORTALS_MAX } from './stream-limits.ts';

/** A prepared statement: what a Parse says. */
export class Prepared {
  readonly name: string;
  /** Cut at `STATEMENT_TEXT_BYTES_MAX`. */
  text: string | null;
  /** Of the whole text. */
  textBytes: number;
  /** Set when `text` was cut. */
  textSha256: string | null = null;
  readonly copies: boolean;
  /** Bytes of the Parse, until an Execute has taken them on its account. */
  bytes: number;
  /** From Parse, or from ParameterDescription where Parse left them open. */
  types: readonly number[] | null = null;
  /** From a Describe of this statement; read only where columns or samples are asked for. */
  description: RowDescription | null = null;
  /**
   * The group (see `Operation.group`) in which its Parse was refused, so that the server skips whatever follows it
   * there; -1 when it was not refused.
   */
  refusedIn = -1;

  constructor(name: string, text: string | null, textBytes: number, copies: boolean, bytes: number) {
    this.name = name;
    this.text = text;
    this.textBytes = textBytes;
    this.copies = copies;
    this.bytes = bytes;
  }
}

/** A portal: what a Bind says, and the statement that its Executes are. */
export class Portal {
  readonly name: string;
  readonly preparedName: string;
  /** As foreseen when the Bind was sent, and as it was when the server took it; null for a statement nobody parsed. */
  prepared: Prepared | null;
  /** What was foreseen proved wrong: the record of its Executes must be made anew. */
  mistaken = false;
  parameters: Parameter[] | null = null;
  opaque = false;
  /** Bytes of the Bind, until an Execute has taken them on its account. */
  bytes = 0;
  /** Result formats of the Bind; read only where samples are asked for. */
  formats: readonly number[] | null = null;
  description: RowDescription | null = null;
  /** The statement under way: begun by the first Execute, ended when the portal has run to its end. */
  statement: Statement | null = null;
  /** Executes sent and not answered. */
  pending = 0;
  /** Results that the statement under way has had: one for each Execute that was answered. */
  results = 0;

  constructor(name: string, preparedName: string, prepared: Prepared | null) {
    this.name = name;
    this.preparedName = preparedName;
    this.prepared = prepared;
  }
}

/**
 * The names of one session in two views. The server's: what has been acknowledged. The client's: with what has been
 * sent and not answered yet, since the gate must know a name's meaning before the server does.
 */
export class Names {
  readonly #queue: OperationQueue;
  #unnamedPrepared: Prepared | null = null;
  #unnamedPortal: Portal | null = null;
  readonly #prepared = new Map<string, Prepared>();
  #preparedTextBytes = 0;
  readonly #portals = new Map<string, Portal>();
  /** The newest Parse and Bind of each name that has not been answered. A dropped one stands until it is looked at. */
  #unnamedParse: Operation | null = null;
  #unnamedBind: Operation | null = null;
  readonly #parses = new Map<string, Operation>();
  readonly #binds = new Map<string, Operation>();

  constructor(queue: OperationQueue) {
    this.#queue = queue;
  }

  // The client's view.

  parseSent(operation: Operation): void {
    if (operation.name === '') this.#unnamedParse = operation;
    else this.#parses.set(operation.name, operation);
  }

  bindSent(operation: Operation): void {
    if (operation.name === '') this.#unnamedBind = operation;
    else this.#binds.set(operation.name, operation);
  }

  /** The newest unanswered Parse of `name`; null when there is none. Those that the server skips count while `skipped`. */
  queuedParse(name: string, skipped: boolean): Operation | null {
    const operation = (name === '' ? this.#unnamedParse : this.#parses.get(name)) ?? null;
    if (operation === null || !operation.dropped || skipped) return operation;
    const earlier = this.#queue.newest(PARSE, name);
    if (earlier !== null) this.parseSent(earlier);
    else if (name === '') this.#unnamedParse = null;
    else this.#parses.delete(name);
    return earlier;
  }

  queuedBind(name: string, skipped: boolean): Operation | null {
    const operation = (name === '' ? this.#unnamedBind : this.#binds.get(name)) ?? null;
    if (operation === null || !operation.dropped || skipped) return operation;
    const earlier = this.#queue.newest(BIND, name);
    if (earlier !== null) this.bindSent(earlier);
    else if (name === '') this.#unnamedBind = null;
    else this.#binds.delete(name);
    return earlier;
  }

  /** A prepared statement as it will be when the server comes to a message sent now; null for an unknown name. */
  foreseenPrepared(name: string, skipped: boolean): Prepared | null {
    return this.queuedParse(name, skipped)?.prepared ?? this.prepared(name);
  }

  foreseenPortal(name: string, skipped: boolean): Portal | null {
    return this.queuedBind(name, skipped)?.portal ?? this.portal(name);
  }

  // The server's view.

  prepared(name: string): Prepared | null {
    return name === '' ? this.#unnamedPrepared : (this.#prepared.get(name) ?? null);
  }

  portal(name: string): Portal | null {
    return name === '' ? this.#unnamedPortal : (this.#portals.get(name) ?? null);
  }

  parsed(operation: Operation): void {
    const { name, prepared } = operation;
    if (name === '') {
      this.#unnamedPrepared = prepared;
      if (this.#unnamedParse === operation) this.#unnamedParse = null;
      return;
    }
    if (this.#parses.get(name) === operation) this.#parses.delete(name);
    this.#forget(name);
    if (prepared === null) return;
    this.#prepared.set(name, prepared);
    this.#preparedTextBytes += prepared.text?.length ?? 0;
    while (
      this.#prepared.size > PREPARED_STATEMENTS_MAX ||
      (this.#preparedTextBytes > PREPARED_TEXT_BYTES_MAX && this.#prepared.size > 1)
    ) {
      this.#forget(this.#prepared.keys().next().value!);
    }
  }

  /** Returns the portal that had the name before, which is no more. */
  bound(operation: Operation): Portal | null {
    const { name, portal } = operation;
    if (name === '') {
      const before = this.#unnamedPortal;
      this.#unnamedPortal = portal;
      if (this.#unnamedBind === operation) this.#unnamedBind = null;
      return before;
    }
    if (this.#binds.get(name) === operation) this.#binds.delete(name);
    let before = this.#portals.get(name) ?? null;
    if (portal !== null) this.#portals.set(name, portal);
    if (this.#portals.size > PORTALS_MAX) {
      const oldest = this.#portals.keys().next().value!;
      before = this.#portals.get(oldest)!;
      this.#portals.delete(oldest);
    }
    return before;
  }

  closePrepared(name: string): void {
    if (name === '') this.#unnamedPrepared = null;
    else this.#forget(name);
  }

  closePortal(name: string): Portal | null {
    const portal = this.portal(name);
    if (name === '') this.#unnamedPortal = null;
    else this.#portals.delete(name);
    return portal;
  }

  /** DISCARD ALL, DEALLOCATE ALL. */
  closeAllPrepared(): void {
    this.#unnamedPrepared = null;
    this.#prepared.clear();
    this.#preparedTextBytes = 0;
  }

  /** A simple Query ends the unnamed statement and the unnamed portal, which is returned. */
  closeUnnamed(): Portal | null {
    this.#unnamedPrepared = null;
    const portal = this.#unnamedPortal;
    this.#unnamedPortal = null;
    return portal;
  }

  /** The transaction has ended: `ended` hears of each portal that was open. */
  closePortals(ended: (portal: Portal) => void): void {
    if (this.#unnamedPortal !== null) {
      const portal = this.#unnamedPortal;
      this.#unnamedPortal = null;
      if (portal.statement !== null) ended(portal);
    }
    if (this.#portals.size === 0) return;
    const portals = [...this.#portals.values()];
    this.#portals.clear();
    for (const portal of portals) if (portal.statement !== null) ended(portal);
  }

  /** Portals with a statement that is still open, for the end of the session. */
  *openPortals(): Generator<Portal> {
    if (this.#unnamedPortal?.statement) yield this.#unnamedPortal;
    for (const portal of this.#portals.values()) if (portal.statement !== null) yield portal;
  }

  #forget(name: string): void {
    const prepared = this.#prepared.get(name);
    if (prepared === undefined) return;
    this.#prepared.delete(name);
    this.#preparedTextBytes -= prepared.text?.length ?? 0;
  }
}
