import { expect } from 'vitest';
import { play, playCut, type Script } from './mysql-scripts.ts';

/** Plays a script whole, byte by byte and cut once at every place: bytes and record must be the same each time. */
export function follow(script: Script) {
  const whole = play(script);
  const { session } = whole;
  const seen = session.seen();
  const variants = [play(script, 1), play(script, 3), play(script, 7)];
  script.steps.forEach((step, index) => {
    const { length } = 'C' in step ? step.C : step.S;
    for (let at = 1; at < length; at += 1) variants.push(playCut(script, index, at));
  });
  for (const variant of variants) {
    expect(variant.session.seen()).toEqual(seen);
    expect(variant.session.notes).toEqual(session.notes);
    expect(variant.sent.equals(whole.sent)).toBe(true);
    expect(variant.received.equals(whole.received)).toBe(true);
    expect(variant.session.observer.busy).toBe(session.observer.busy);
    expect(variant.session.observer.atBoundary).toBe(session.observer.atBoundary);
  }
  return { session, seen, sent: whole.sent, received: whole.received };
}

/** As `follow`, for a conversation of which every byte passes and after which nothing is outstanding. */
export function passes(script: Script) {
  const result = follow(script);
  const sent = script.steps.map((step) => ('C' in step ? step.C : Buffer.alloc(0)));
  const received = script.steps.map((step) => ('S' in step ? step.S : Buffer.alloc(0)));
  expect(result.sent.equals(Buffer.concat(sent))).toBe(true);
  expect(result.received.equals(Buffer.concat(received))).toBe(true);
  expect(result.session.observer.busy).toBe(false);
  return result;
}
