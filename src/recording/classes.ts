import type { Dialect } from '../../protocols/sql/lexer.ts';
import { skeletonOf } from '../../protocols/sql/skeleton.ts';
import type { StatementRow } from '../store/recording-index.ts';
import { looksInside } from './inner-statements.ts';
import { type PostgresParser, relationsOf } from './relations.ts';
import { RISKS, riskOf, TELLING } from './risk.ts';

/** What the index keeps of what a text touches, does and risks. */
export type Judged = Pick<StatementRow, 'tables' | 'effects' | 'risk' | 'risk_reason'>;

/** Texts and skeletons kept of each dialect, and their characters together; the oldest go first. Ours. */
const KEPT_MAX = 5_000;
const KEPT_CHARACTERS_MAX = 8 * 1024 * 1024;
/** Longer texts are judged by their beginning, and how far that reaches depends on the literals. */
const SKELETON_CHARACTERS_MAX = 4 * 1024;

/** Judges texts; remembers what it made of those that come again, and of those that differ in literals and comments alone. */
export class StatementClasses {
  readonly #parser: PostgresParser | null;
  readonly #dialects: Readonly<Record<Dialect, { texts: Kept<Judged>; skeletons: Kept<Shape> }>> = {
    postgres: { texts: new Kept(), skeletons: new Kept() },
    mysql: { texts: new Kept(), skeletons: new Kept() },
    tds: { texts: new Kept(), skeletons: new Kept() },
  };

  /** `parser` is PostgreSQL's own; without it names are found by their words. */
  constructor(parser: PostgresParser | null) {
    this.#parser = parser;
  }

  /** Never throws. */
  judge(text: string, dialect: Dialect): Judged {
    const { texts, skeletons } = this.#dialects[dialect];
    const known = texts.find(text);
    if (known !== undefined) return known;
    const skeleton = sharedSkeleton(text, dialect);
    if (skeleton === null) return texts.keep(text, this.#judge(text, dialect));
    const shape = skeletons.find(skeleton);
    if (shape === undefined)
      return skeletons.keep(skeleton, { last: text, judged: this.#judge(text, dialect) }).judged;
    // What comes twice running is worth finding without taking it apart; what differs each time would only fill the room.
    if (shape.last === text) texts.keep(text, shape.judged);
    shape.last = text;
    return shape.judged;
  }

  #judge(text: string, dialect: Dialect): Judged {
    const { level, reason } = riskOf(text, dialect);
    return { ...relationsOf(text, dialect, this.#parser), risk: RISKS.indexOf(level), risk_reason: reason };
  }
}

/** The skeleton that stands for `text` and all that have the same one; null where its literals or its end may count. */
export function sharedSkeleton(text: string, dialect: Dialect): string | null {
  // A parser written in C sees a text end at its first NUL.
  if (text.length > SKELETON_CHARACTERS_MAX || text.includes('\0') || looksInside(text, dialect)) return null;
  return skeletonOf(text, dialect, TELLING);
}

interface Shape {
  /** The last text of this skeleton. */
  last: string;
  readonly judged: Judged;
}

class Kept<Value> {
  readonly #values = new Map<string, Value>();
  #characters = 0;

  find(key: string): Value | undefined {
    return this.#values.get(key);
  }

  keep(key: string, value: Value): Value {
    this.#values.set(key, value);
    this.#characters += key.length;
    while (this.#values.size > KEPT_MAX || this.#characters > KEPT_CHARACTERS_MAX) {
      const oldest = this.#values.keys().next().value!;
      this.#values.delete(oldest);
      this.#characters -= oldest.length;
    }
    return value;
  }
}
