/** What the OpenAPI document says of a route that needs a login. */
export function about(summary: string): { summary: string; security: { login: string[] }[] } {
  return { summary, security: [{ login: [] }] };
}

/** What it says of one that needs none. */
export function open(summary: string): { summary: string; security: never[] } {
  return { summary, security: [] };
}
