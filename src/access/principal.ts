/** Who is behind a connection or a call: as far as it was proven, and how. */
export interface Principal {
  /** Unique among all sources: a local user's name, an OIDC subject's mapped name, a certificate's subject. */
  readonly name: string;
  readonly roles: readonly string[];
  /** `listener`: a trusted address; `operator`: somebody with the gateway's own files. */
  readonly source: 'listener' | 'password' | 'oidc' | 'certificate' | 'token' | 'operator';
}
