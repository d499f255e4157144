/** Caps of a gateway of several processes. All are ours. */

/** Questions that one process may have open at another: more sign-ins at once than that are turned away. */
export const QUESTIONS_MAX = 10_000;

/** Statements on their way to somebody who follows a session; beyond, following ends. */
export const WATCHED_MAX = 5_000;

/** Sockets on their way to one worker; beyond, new ones are closed at once. */
export const HANDED_OVER_MAX = 2_000;

/** How long a worker may take to say how it is: whoever asks for readiness waits for that. Beyond, it hangs. */
export const STATE_MS_MAX = 1_500;

/** Pauses before a worker that died is started again: doubled each time, until one has lived for a while. */
export const RESTART_MS_MIN = 250;
export const RESTART_MS_MAX = 30_000;
export const STEADY_MS = 60_000;

/** Deaths of one worker in a row, none of which had lived for a while; beyond, it is not started again. */
export const RESTARTS_MAX = 20;

/** How long a worker may take to begin: it loads the engines and opens its journal. */
export const START_MS_MAX = 60_000;

/** How long a worker may take to give its metrics; what it gave last stands in for them. */
export const METRICS_MS_MAX = 2_000;

/** How long a worker that drains may take beyond the grace to close its journal. */
export const STOP_MS_MAX = 15_000;
