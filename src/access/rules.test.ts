import { describe, expect, test } from 'vitest';
import type { Principal } from './principal.ts';
import { type AccessQuestion, deadBecause, decide, matchesPattern, parseHours, type Rule } from './rules.ts';

const ada: Principal = { name: 'ada', roles: ['analyst'], source: 'password' };
// A Wednesday, 10:30 UTC.
const NOW = Date.UTC(2026, 10, 25, 10, 30);

function ask(rule: Partial<Rule>, question: Partial<AccessQuestion> = {}) {
  return decide([{ name: 'r', ...rule }], {
    principal: ada,
    resource: { name: 'orders-eu', labels: { env: 'prod' } },
    database: null,
    address: '10.1.2.3',
    at: NOW,
    ...question,
  });
}

test('nobody may anything without a rule', () => {
  expect(
    decide([], {
      principal: ada,
      resource: { name: 'x', labels: {} },
      database: null,
      address: null,
      at: NOW,
    }).allowed,
  ).toBe(false);
});

describe('a rule fits when all it names fits', () => {
  test.each<[string, Partial<Rule>, Partial<AccessQuestion>, boolean]>([
    ['empty', {}, {}, true],
    ['by user', { users: ['ada'] }, {}, true],
    ['by role', { roles: ['analyst'] }, {}, true],
    ['other role', { roles: ['dba'] }, {}, false],
    ['user or role', { users: ['bob'], roles: ['analyst'] }, {}, true],
    ['resource pattern', { resources: ['orders-*'] }, {}, true],
    ['other resource', { resources: ['billing'] }, {}, false],
    ['label', { labels: { env: ['prod', 'test'] } }, {}, true],
    ['other label', { labels: { env: 'dev' } }, {}, false],
    ['label that is not there', { labels: { team: 'x' } }, {}, false],
    ['network', { networks: ['10.0.0.0/8'] }, {}, true],
    ['network, mapped address', { networks: ['10.0.0.0/8'] }, { address: '::ffff:10.1.2.3' }, true],
    ['other network', { networks: ['192.0.2.0/24', '2001:db8::/32'] }, {}, false],
    ['network, Unix socket', { networks: ['10.0.0.0/8'] }, { address: null }, false],
    ['database', { databases: ['a'] }, { database: 'a' }, true],
    ['other database', { databases: ['a'] }, { database: 'b' }, false],
    ['no database yet', { databases: ['a'] }, { database: null }, true],
    ['day', { days: ['wed'] }, {}, true],
    ['other day', { days: ['thu'] }, {}, false],
    ['hours', { hours: ['08:00-18:00'] }, {}, true],
    [
      'hours in a zone where it is night',
      { hours: ['08:00-18:00'], time_zone: 'America/Los_Angeles' },
      {},
      false,
    ],
    ['end of hours is outside', { hours: ['08:00-10:30'] }, {}, false],
    [
      'over midnight, before',
      { hours: ['22:00-06:00'], days: ['wed'] },
      { at: Date.UTC(2026, 10, 25, 23, 0) },
      true,
    ],
    [
      'over midnight, after',
      { hours: ['22:00-06:00'], days: ['wed'] },
      { at: Date.UTC(2026, 10, 26, 5, 0) },
      true,
    ],
    [
      'over midnight, wrong day',
      { hours: ['22:00-06:00'], days: ['wed'] },
      { at: Date.UTC(2026, 10, 25, 5, 0) },
      false,
    ],
  ])('%s', (_name, rule, question, allowed) => {
    expect(ask(rule, question).allowed).toBe(allowed);
  });
});

test('the first rule that fits gives its terms', () => {
  const decision = decide(
    [
      { name: 'not for ada', users: ['bob'] },
      { name: 'read', roles: ['analyst'], read_only: true, max_launch: 1000 },
      { name: 'all', roles: ['analyst'] },
    ],
    { principal: ada, resource: { name: 'x', labels: {} }, database: null, address: null, at: NOW },
  );
  expect(decision).toEqual({
    allowed: true,
    terms: { rule: 'read', databases: null, maxLaunchMs: 1000, maxConnections: null, readOnly: true },
  });
});

test('a refusal says of each rule why it did not fit', () => {
  const decision = ask({ roles: ['dba'] });
  expect(decision).toEqual({ allowed: false, reasons: [{ rule: 'r', why: 'it is not for ada' }] });
});

test('patterns', () => {
  expect(matchesPattern('*', 'x')).toBe(true);
  expect(matchesPattern('a*c*e', 'abcde')).toBe(true);
  expect(matchesPattern('a*c', 'abcd')).toBe(false);
  expect(matchesPattern('ab*ba', 'aba')).toBe(false);
});

test('hours that are none are an error', () => {
  expect(() => parseHours('8-18')).toThrow('08:00-18:00');
});

describe('rules that can never fit are found', () => {
  const facts = {
    resources: [{ name: 'orders', labels: { env: 'prod' }, databases: ['a'] }],
    users: [{ name: 'ada', roles: ['analyst'] }],
    otherRoles: [],
  };
  test.each<[Partial<Rule>, boolean]>([
    [{ users: ['ada'] }, false],
    [{ users: ['eve'] }, true],
    [{ roles: ['dba'] }, true],
    [{ resources: ['nothing'] }, true],
    [{ labels: { env: 'dev' } }, true],
    [{ databases: ['z'] }, true],
    [{ hours: ['08:00-08:00'] }, true],
    [{ resources: ['ord*'], roles: ['analyst'] }, false],
  ])('%o', (rule, dead) => {
    expect(deadBecause({ name: 'r', ...rule }, facts) !== null).toBe(dead);
  });
});
