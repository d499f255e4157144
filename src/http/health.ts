/** What `/readyz` is decided on. Each part says for itself whether it is well. */
export interface Health {
  readonly parts: readonly HealthPart[];
}

export interface HealthPart {
  readonly name: string;
  readonly ready: boolean;
  /** For the operator; never a secret. */
  readonly detail: string | null;
}

export interface HealthSource {
  health(): Promise<Health>;
}
