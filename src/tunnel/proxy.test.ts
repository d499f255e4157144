import { describe, expect, test } from 'vitest';
import { proxyFor } from './proxy.ts';

const HTTPS = new URL('https://gateway.example:7070');
const PROXY = 'http://proxy.example:3128';

function proxyOf(url: URL | string, environment: Record<string, string>): string | null {
  return proxyFor(new URL(url), environment)?.href ?? null;
}

describe('which proxy', () => {
  test('by the scheme of the gateway, lower case before upper, ALL_PROXY last', () => {
    expect(proxyOf(HTTPS, {})).toBeNull();
    expect(proxyOf(HTTPS, { HTTPS_PROXY: PROXY })).toBe(`${PROXY}/`);
    expect(proxyOf(HTTPS, { HTTP_PROXY: PROXY })).toBeNull();
    expect(proxyOf('http://gateway.example', { HTTP_PROXY: PROXY })).toBe(`${PROXY}/`);
    expect(proxyOf(HTTPS, { https_proxy: 'http://low:1', HTTPS_PROXY: PROXY })).toBe('http://low:1/');
    expect(proxyOf(HTTPS, { ALL_PROXY: 'proxy.example:3128' })).toBe(`${PROXY}/`);
    expect(proxyOf(HTTPS, { HTTPS_PROXY: '', ALL_PROXY: PROXY })).toBe(`${PROXY}/`);
  });

  test('none for this machine', () => {
    for (const host of ['localhost', '127.0.0.1', '127.8.8.8', '[::1]', 'a.localhost'])
      expect(proxyOf(`https://${host}:7070`, { HTTPS_PROXY: PROXY }), host).toBeNull();
  });

  test('one that is no HTTP proxy is said to be so', () => {
    expect(() => proxyOf(HTTPS, { HTTPS_PROXY: 'socks5://proxy.example:1080' })).toThrow(
      /names no HTTP proxy/,
    );
    expect(() => proxyOf(HTTPS, { HTTPS_PROXY: 'http://' })).toThrow(/names no HTTP proxy/);
  });
});

test.each([
  ['gateway.example', true],
  ['.example', true],
  ['*.example', true],
  ['example', true],
  ['other.example, gateway.example', true],
  ['GATEWAY.EXAMPLE:7070', true],
  ['gateway.example:443', false],
  ['way.example', false],
  ['gateway.example.org', false],
  ['*', true],
  ['', false],
])('NO_PROXY %j leaves out gateway.example:7070: %s', (list, isDirect) => {
  expect(proxyOf(HTTPS, { HTTPS_PROXY: PROXY, NO_PROXY: list }) === null).toBe(isDirect);
});

test.each([
  ['10.1.2.3', '10.0.0.0/8', true],
  ['10.1.2.3', '10.1.2.3', true],
  ['10.1.2.3', '10.1.2.0/30', true],
  ['10.1.2.3', '10.1.3.0/24', false],
  ['10.1.2.3', '2.3', false],
  ['[fd00::5]', 'fd00::/8', true],
  ['[fd00::5]', 'fd00::5', true],
  ['[fd00::5]', '[fd00::5]:7070', true],
  ['10.1.2.3', '10.0.0.0/99', false],
])('%s and NO_PROXY %s: %s', (host, list, isDirect) => {
  expect(proxyOf(`https://${host}:7070`, { HTTPS_PROXY: PROXY, no_proxy: list }) === null).toBe(isDirect);
});
