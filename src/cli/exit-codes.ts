/** What the command's exit status says. `docs/cli.md` lists them; a test holds the two in step. */
export const ExitCode = {
  /** Done, or ended by a signal after everything was closed in order. */
  ok: 0,
  /** Something failed that no other code stands for; it is said on standard error. */
  failure: 1,
  /** The command line or the configuration is wrong. Nothing was started. */
  usage: 2,
  /** The daemon could not start: an address is taken, the journal cannot be written, a key cannot be read. */
  startFailed: 3,
  /** `check --connect`: a resource could not be reached or signed in to. */
  checkFailed: 4,
  /** `recordings verify`: a record was altered, is incomplete, or cannot be proven. */
  verifyFailed: 5,
  /** The grace of a shutdown passed and a second signal ended what was left. */
  interrupted: 130,
} as const;
