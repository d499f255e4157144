import type { AccessControl } from '../access/access-control.ts';
import type { LiveSessions } from '../gateway/live-sessions.ts';
import type { AuditEvent } from '../recording/recorder.ts';

/** What the API needs of the gateway. */
export interface ApiPorts {
  readonly sessions: LiveSessions;
  readonly access: AccessControl;
  readonly audit: (event: AuditEvent) => void;
  /** Public keys that sign recordings, by id, PEM. */
  readonly signingKeys: () => Readonly<Record<string, string>>;
}
