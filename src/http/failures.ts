import { failure } from './contract/api.ts';

/** An answer that says no, with its HTTP status. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.code = code;
  }
}

/** Failures as the OpenAPI document lists them, by status. */
export const failures = {
  400: failure.describe('Something in the request is wrong.'),
  401: failure.describe('Nobody, or somebody unknown, calls.'),
  403: failure.describe('The caller may not.'),
  429: failure.describe('Too often; wait a minute.'),
};

/** Milliseconds since the epoch as ISO 8601. */
export function timeText(time: number): string {
  return new Date(time).toISOString();
}
