import type { Note } from '../../protocols/engine.ts';
import { type JournalEvent, timeText } from './events.ts';
import type { AuditEvent, SessionEnd, SessionStart } from './recorder.ts';

/** A session's start as an event. */
export function startedEvent(start: SessionStart, at: number): JournalEvent {
  return {
    type: 'session_started',
    session: start.session,
    at: timeText(at),
    gateway: start.gateway,
    principal: start.principal,
    resource: start.resource,
    engine: start.engine,
    server_version: start.serverVersion,
    database_user: start.databaseUser,
    database: start.database,
    server_address: start.serverAddress,
    server_session: start.serverSession,
    authentication: start.authentication,
    client_address: start.clientAddress,
    client_user: start.clientUser,
    client_program: start.clientProgram,
    client_attributes: { ...start.clientAttributes },
    client_tls: start.clientTls,
    server_tls: start.serverTls,
    server_tls_verified: start.serverTlsVerified,
    tls_fallback: start.tlsFallback,
    launch: start.launch ?? null,
    rule: start.rule ?? null,
  };
}

export function noteEvent(session: string, seq: number, note: Note, at: number): JournalEvent {
  return { type: 'note', session, seq, at: timeText(at), note: { ...note } };
}

export function endedEvent(session: string, statements: number, end: SessionEnd, at: number): JournalEvent {
  return {
    type: 'session_ended',
    session,
    at: timeText(at),
    reason: end.reason,
    detail: end.detail,
    statements,
    bytes_sent: end.bytesSent,
    bytes_received: end.bytesReceived,
  };
}

export function auditEvent(gateway: string, event: AuditEvent, at: number): JournalEvent {
  return {
    type: 'audit',
    at: timeText(at),
    gateway,
    action: event.action,
    principal: event.principal,
    resource: event.resource,
    client_address: event.clientAddress,
    reason: event.reason,
    ...(event.detail === undefined ? {} : { detail: { ...event.detail } }),
  };
}
