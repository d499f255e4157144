import type { Statement } from '../../protocols/statement.ts';
import type { AccessControl } from '../access/access-control.ts';
import type { Gateway } from '../gateway/gateway.ts';
import type { SessionSummary } from '../gateway/summary.ts';
import type { AuditEvent } from '../recording/recorder.ts';

/** What the API needs of the gateway. */
export interface ApiPorts {
  readonly gateway: Gateway;
  readonly access: AccessControl;
  readonly audit: (event: AuditEvent) => void;
  /** A statement as it may be shown: masked as it is recorded. */
  readonly present: (statement: Statement, session: SessionSummary) => Record<string, unknown>;
  /** Public keys that sign recordings, by id, PEM. */
  readonly signingKeys: () => Readonly<Record<string, string>>;
}
