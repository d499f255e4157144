import type { SqlType, SqlValue } from './types.ts';

/** What the test double remembers: tables and procedures for all, transactions, settings and handles for one session. */

export interface Column {
  readonly name: string;
  readonly type: SqlType;
  readonly nullable: boolean;
  readonly identity: boolean;
  readonly key: boolean;
}

export interface Table {
  readonly name: string;
  readonly columns: readonly Column[];
  rows: SqlValue[][];
  nextIdentity: number;
}

export interface Procedure {
  readonly name: string;
  readonly parameters: readonly { name: string; type: SqlType; output: boolean; fallback: SqlValue | null }[];
  readonly body: string;
}

/** Shared by all connections of one double. */
export class Store {
  readonly tables = new Map<string, Table>();
  readonly procedures = new Map<string, Procedure>();
  /** The columns of table types. */
  readonly tableTypes = new Map<string, readonly Column[]>();
}

/** An error with its number and severity, as the server words it. */
export class SqlError extends Error {
  readonly number: number;
  readonly severity: number;
  readonly state: number;
  /** Ends the whole batch and not only the statement. */
  readonly fatal: boolean;

  constructor(number: number, severity: number, message: string, fatal = false, state = 1) {
    super(message);
    this.number = number;
    this.severity = severity;
    this.state = state;
    this.fatal = fatal;
  }
}

export interface PreparedBatch {
  readonly sql: string;
  readonly declaration: string;
}

export interface OpenCursor {
  readonly columns: readonly { name: string; type: SqlType }[];
  readonly rows: readonly SqlValue[][];
  position: number;
}

export class SessionState {
  readonly store: Store;
  readonly temporary = new Map<string, Table>();
  readonly spid: number;
  readonly user: string;
  readonly application: string;
  readonly host: string;
  readonly loginDatabase: string;
  readonly databases: readonly string[];
  readonly old: boolean;
  /** COLUMNENCRYPTION was acknowledged: COLMETADATA carries a table of keys, an empty one. */
  readonly columnEncryption: boolean;
  readonly version: string;
  database: string;
  noCount = false;
  formatOnly = false;
  /** SET IMPLICIT_TRANSACTIONS ON: what changes rows begins a transaction. */
  implicit = false;
  rowCount = 0;
  lastError = 0;
  identity: number | null = null;
  transactions = 0;
  descriptor = 0n;
  snapshot: Map<Table, SqlValue[][]> | null = null;
  savepoints = new Map<string, Map<Table, SqlValue[][]>>();
  nextHandle = 1;
  readonly handles = new Map<number, PreparedBatch>();
  readonly cursors = new Map<number, OpenCursor>();
  /** The table and columns of an INSERT BULK whose rows are to come. */
  bulk: Table | null = null;

  constructor(fields: {
    store: Store;
    spid: number;
    user: string;
    application: string;
    host: string;
    database: string;
    databases: readonly string[];
    old: boolean;
    columnEncryption: boolean;
    version: string;
  }) {
    this.store = fields.store;
    this.spid = fields.spid;
    this.user = fields.user;
    this.application = fields.application;
    this.host = fields.host;
    this.database = fields.database;
    this.loginDatabase = fields.database;
    this.databases = fields.databases;
    this.old = fields.old;
    this.columnEncryption = fields.columnEncryption;
    this.version = fields.version;
  }

  tables(name: string): Map<string, Table> {
    return name.startsWith('#') ? this.temporary : this.store.tables;
  }

  table(name: string): Table {
    const found = this.tables(name).get(name.toLowerCase());
    if (found === undefined) throw new SqlError(208, 16, `Invalid object name '${name}'.`, true);
    return found;
  }

  /** The columns of a table type. */
  tableType(name: string): readonly Column[] {
    const found = this.store.tableTypes.get(name.toLowerCase());
    if (found === undefined) throw new SqlError(2715, 16, `Cannot find data type ${name}.`, true);
    return found;
  }

  /** The object's number, or null where there is none of that name. */
  objectId(name: string): number | null {
    const names = [...this.store.tables.keys(), ...this.temporary.keys(), ...this.store.procedures.keys()];
    const index = names.indexOf(name.toLowerCase());
    return index < 0 ? null : 100 + index;
  }

  /** Rows of all tables as they are. */
  capture(): Map<Table, SqlValue[][]> {
    return new Map(
      [...this.store.tables.values(), ...this.temporary.values()].map((table) => [table, [...table.rows]]),
    );
  }

  restore(snapshot: Map<Table, SqlValue[][]>): void {
    for (const [table, rows] of snapshot) table.rows = rows;
  }

  reset(): void {
    this.temporary.clear();
    this.handles.clear();
    this.cursors.clear();
    this.database = this.loginDatabase;
    this.noCount = false;
    this.formatOnly = false;
    this.implicit = false;
    if (this.snapshot !== null) this.restore(this.snapshot);
    this.transactions = 0;
    this.snapshot = null;
  }
}
