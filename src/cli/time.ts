const UNITS_MS: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * A point in time as people give it: `2h` and `7d` are that long ago; `2026-11-24` and `2026-11-24T10:00` are UTC unless
 * they say otherwise. Milliseconds since the epoch. Throws an error that says how to write it.
 */
export function parseTime(text: string, now: number = Date.now()): number {
  const ago = /^(\d+)([smhd])$/.exec(text);
  if (ago !== null) return now - Number(ago[1]) * UNITS_MS[ago[2]!]!;
  const local = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?$/.test(text);
  const time = Date.parse(local ? `${text}Z` : text);
  if (Number.isNaN(time))
    throw new Error(`write a time as 2026-11-24, 2026-11-24T10:00, 2h or 7d, not ${text}`);
  return time;
}
