import type { ObserveOptions, Observer, Sink } from '../engine.ts';
import type { SessionFacts } from './session.ts';

/** Follows one session after sign-in. */
export function observe(_sink: Sink, _options: ObserveOptions, _facts: SessionFacts): Observer {
  throw new Error('not yet');
}
