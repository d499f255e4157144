import {
  type FrameEvent,
  type JournalEvent,
  joinStatement,
  type RecordedStatement,
  type StatementEndedEvent,
  type StatementStartedEvent,
} from './events.ts';

/** Events as they come from a recording, from memory or one by one. */
export type Events = Iterable<JournalEvent> | AsyncIterable<JournalEvent>;

/** A session's events, each statement in one piece in the place of its start. Raw frames are left out. */
export type JoinedEvent =
  | Exclude<JournalEvent, StatementStartedEvent | StatementEndedEvent | FrameEvent>
  | ({ readonly type: 'statement' } & RecordedStatement);

interface Waiting {
  readonly start: StatementStartedEvent;
  end: StatementEndedEvent | null;
}

/**
 * Joins starts and ends of statements. What follows on a statement that still runs waits for its end, so that the order
 * is that of the starts; a statement without an end has the status `unknown`.
 */
export async function* joined(events: Events): AsyncGenerator<JoinedEvent> {
  const queue: (Waiting | JoinedEvent)[] = [];
  const open = new Map<number, Waiting>();
  let head = 0;
  for await (const event of events) {
    if (event.type === 'frame') continue;
    if (event.type === 'statement_started') {
      const waiting = { start: event, end: null };
      open.set(event.seq, waiting);
      queue.push(waiting);
    } else if (event.type === 'statement_ended') {
      const waiting = open.get(event.seq);
      if (waiting !== undefined) waiting.end = event;
      open.delete(event.seq);
    } else queue.push(event);
    for (; head < queue.length; head += 1) {
      const first = queue[head]!;
      if ('start' in first && first.end === null) break;
      yield resolved(first);
    }
    if (head > 1000) {
      queue.splice(0, head);
      head = 0;
    }
  }
  for (; head < queue.length; head += 1) yield resolved(queue[head]!);
}

function resolved(item: Waiting | JoinedEvent): JoinedEvent {
  return 'start' in item ? { type: 'statement', ...joinStatement(item.start, item.end) } : item;
}
