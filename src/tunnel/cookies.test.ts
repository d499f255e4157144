import { expect, test } from 'vitest';
import { Cookies } from './cookies.ts';

test('brings back what a balancer has set, the latest of each name', () => {
  const cookies = new Cookies();
  expect(cookies.headers()).toEqual({});
  cookies.take(['AWSALB=abc; Path=/; Expires=Wed, 01 Jan 2031 00:00:00 GMT', 'route=1; HttpOnly']);
  cookies.take(['route=2=x']);
  expect(cookies.headers()).toEqual({ cookie: 'AWSALB=abc; route=2=x' });
  cookies.take(['AWSALB=; Max-Age=0']);
  expect(cookies.headers()).toEqual({ cookie: 'route=2=x' });
});

test('keeps only so many, and only what can be sent', () => {
  const cookies = new Cookies();
  cookies.take([`big=${'x'.repeat(5000)}`, 'no equals', '=nameless', 'sp ace=1']);
  expect(cookies.headers()).toEqual({});
  cookies.take(Array.from({ length: 100 }, (_one, index) => `c${index}=1`));
  expect(cookies.headers().cookie?.split(';')).toHaveLength(16);
});
