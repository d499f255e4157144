import { describe, expect, it } from 'vitest';
import type { Channel, TlsMode } from '../channel.ts';
import { negotiate, negotiateNothing, type Protection } from './accept.ts';

type Policy = 'required' | 'login' | 'none';

function client(tlsMode: TlsMode, tls = false): Channel {
  return { tlsMode, tls: tls ? {} : null } as unknown as Channel;
}

const OFF = 0;
const ON = 1;
const NOT_SUPPORTED = 2;
const REQUIRED = 3;
const STRICT = 4;

describe('the answer to the client’s ENCRYPTION', () => {
  // Client value, policy, byte answered, and how its LOGIN7 then comes.
  it.each<[number, Policy, number, Protection]>([
    [OFF, 'required', REQUIRED, 'full'],
    [OFF, 'login', OFF, 'login'],
    [OFF, 'none', NOT_SUPPORTED, 'clear'],
    [ON, 'required', ON, 'full'],
    [ON, 'login', ON, 'full'],
    [ON, 'none', ON, 'full'],
    [NOT_SUPPORTED, 'required', REQUIRED, 'full'],
    [NOT_SUPPORTED, 'login', NOT_SUPPORTED, 'clear'],
    [NOT_SUPPORTED, 'none', NOT_SUPPORTED, 'clear'],
    [REQUIRED, 'required', ON, 'full'],
    [REQUIRED, 'login', ON, 'full'],
    [REQUIRED, 'none', ON, 'full'],
    [STRICT, 'required', ON, 'full'],
    [STRICT, 'login', ON, 'full'],
    [STRICT, 'none', ON, 'full'],
  ])('%i under %s is %i, and LOGIN7 comes %s', (asked, policy, answer, protection) => {
    expect(negotiate(client('prefer'), asked, policy)).toEqual({ answer, protection, refusal: null });
  });

  it.each([OFF, ON, NOT_SUPPORTED, REQUIRED, STRICT])('%i inside TDS 8.0 is "not supported"', (asked) => {
    expect(negotiate(client('prefer', true), asked, 'required')).toEqual({
      answer: NOT_SUPPORTED,
      protection: 'strict',
      refusal: null,
    });
  });

  it('of a listener that requires TLS is that of the strictest policy', () => {
    expect(negotiate(client('require'), OFF, 'none').answer).toBe(REQUIRED);
  });

  it.each<[number, Policy, boolean]>([
    [OFF, 'login', false],
    [OFF, 'none', false],
    [NOT_SUPPORTED, 'login', false],
    [ON, 'login', true],
    [ON, 'none', true],
    [OFF, 'required', true],
    [NOT_SUPPORTED, 'required', true],
  ])('without a certificate: %i under %s is refused after LOGIN7: %s', (asked, policy, refused) => {
    const { answer, protection, refusal } = negotiate(client('disable'), asked, policy);
    expect({ answer, protection }).toEqual({ answer: NOT_SUPPORTED, protection: 'clear' });
    expect(refusal?.code ?? null).toBe(refused ? 'tls_required' : null);
  });

  it('to a client without PRELOGIN can only be no, where encryption is required', () => {
    expect(negotiateNothing(client('prefer'), 'none').refusal).toBeNull();
    expect(negotiateNothing(client('prefer'), 'login').refusal).toBeNull();
    expect(negotiateNothing(client('prefer'), 'required').refusal?.code).toBe('tls_required');
    expect(negotiateNothing(client('require'), 'none').refusal?.code).toBe('tls_required');
  });
});
