import {
  type FrameEvent,
  type JournalEvent,
  joinStatement,
  type RecordedStatement,
  type StatementEndedEvent,
  type StatementStartedEvent,
} from './events.ts';
import { JOIN_CHARACTERS_MAX, JOIN_EVENTS_MAX } from './limits.ts';

/** Events as they come from a recording, from memory or one by one. */
export type Events = Iterable<JournalEvent> | AsyncIterable<JournalEvent>;

/** A session's events, each statement in one piece in the place of its start. Raw frames are left out. */
export type JoinedEvent =
  | Exclude<JournalEvent, StatementStartedEvent | StatementEndedEvent | FrameEvent>
  | ({ readonly type: 'statement' } & RecordedStatement);

interface Waiting {
  readonly start: StatementStartedEvent;
  end: StatementEndedEvent | null;
  /** Nothing more of it is waited for. */
  over: boolean;
}

/**
 * Joins starts and ends of statements. What follows on a statement that still runs waits for its end, so that the order
 * is that of the starts; a statement without an end has the status `unknown`.
 *
 * `again` gives the same events from their beginning once more. With it, no more than a named number of events waits: when
 * a statement runs for longer than that, or its end is not on record, it is looked for ahead. Without it, all that follows
 * on such a statement is kept.
 */
export async function* joined(
  events: Events,
  again: (() => Events) | null = null,
): AsyncGenerator<JoinedEvent> {
  const queue: (Waiting | JoinedEvent)[] = [];
  const open = new Map<number, Waiting>();
  let head = 0;
  let characters = 0;
  for await (const event of events) {
    if (event.type === 'frame') continue;
    if (event.type === 'statement_started') {
      const waiting = { start: event, end: null, over: false };
      open.set(event.seq, waiting);
      queue.push(waiting);
      characters += event.text?.length ?? 0;
    } else if (event.type === 'statement_ended') {
      const waiting = open.get(event.seq);
      if (waiting !== undefined) {
        waiting.end = event;
        waiting.over = true;
      }
      open.delete(event.seq);
    } else queue.push(event);
    if (again !== null && (queue.length - head > JOIN_EVENTS_MAX || characters > JOIN_CHARACTERS_MAX))
      await lookAhead(open, again());
    for (; head < queue.length; head += 1) {
      const first = queue[head]!;
      if ('start' in first && !first.over) break;
      if ('start' in first) characters -= first.start.text?.length ?? 0;
      yield resolved(first);
    }
    if (head > 1000) {
      queue.splice(0, head);
      head = 0;
    }
  }
  for (; head < queue.length; head += 1) yield resolved(queue[head]!);
}

/** Finds the ends of all that is open; what has none on record is over without. */
async function lookAhead(open: Map<number, Waiting>, events: Events): Promise<void> {
  for await (const event of events) {
    if (event.type !== 'statement_ended') continue;
    const waiting = open.get(event.seq);
    if (waiting === undefined) continue;
    waiting.end = event;
    waiting.over = true;
    open.delete(event.seq);
    if (open.size === 0) return;
  }
  for (const waiting of open.values()) waiting.over = true;
  open.clear();
}

function resolved(item: Waiting | JoinedEvent): JoinedEvent {
  return 'start' in item ? { type: 'statement', ...joinStatement(item.start, item.end) } : item;
}
