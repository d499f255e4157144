import { describe, expect, it } from 'vitest';
import { Refusal } from '../error.ts';
import { formatOptions, parseOptions } from './options.ts';
import { inspectSettings, parametersWith, parseStartup } from './startup.ts';

function body(...pairs: [string, string][]): Buffer {
  return Buffer.from(`${pairs.map(([name, value]) => `${name}\0${value}\0`).join('')}\0`);
}

const alice: [string, string] = ['user', 'alice'];

describe('StartupMessage', () => {
  it('keeps every parameter, in order, bytes as sent', () => {
    const startup = parseStartup(
      Buffer.concat([
        Buffer.from('user\0alice\0database\0sh\0'),
        Buffer.from("client_encoding\0'utf-8'\0application_name\0"),
        Buffer.from([0xe9, 0, 0x54, 0x69, 0x6d, 0x65, 0x5a, 0x6f, 0x6e, 0x65, 0]),
        Buffer.from('UTC\0search_path\0\0\0'),
      ]),
    );
    expect(startup.user).toBe('alice');
    expect(startup.database?.toString()).toBe('sh');
    expect(parametersWith(startup, [])).toEqual([
      ['client_encoding', Buffer.from("'utf-8'")],
      ['application_name', Buffer.from([0xe9])],
      ['TimeZone', Buffer.from('UTC')],
      ['search_path', Buffer.alloc(0)],
    ]);
  });

  it.each([
    ['no terminator', Buffer.from('user\0alice\0')],
    ['a value missing', Buffer.from('user\0alice\0database\0')],
    ['bytes behind the terminator', Buffer.from('user\0alice\0\0x')],
    ['nothing at all', Buffer.alloc(0)],
  ])('with %s has a wrong layout', (_, bytes) => {
    expect(() => parseStartup(bytes)).toThrow(
      'invalid startup packet layout: expected terminator as last byte',
    );
  });

  it.each(['user', 'database', 'options', 'replication'])('with a second %s is refused', (name) => {
    const pair: [string, string] = [name, name === 'replication' ? 'off' : 'x'];
    expect(() => parseStartup(body(alice, ['database', 'd'], pair, pair))).toThrow(/was sent twice/);
  });

  it('needs a user', () => {
    expect(() => parseStartup(body(['database', 'shop']))).toThrow('no PostgreSQL user name specified');
    expect(() => parseStartup(body(['user', '']))).toThrow('no PostgreSQL user name specified');
  });

  it('takes names of 63 bytes and not of 64, which the server would cut', () => {
    expect(parseStartup(body(alice, ['database', 'x'.repeat(63)])).database?.length).toBe(63);
    expect(() => parseStartup(body(alice, ['database', 'x'.repeat(64)]))).toThrow(Refusal);
    expect(() => parseStartup(body(['user', 'é'.repeat(32)]))).toThrow(Refusal);
  });

  it.each([
    ['true', 'physical'],
    ['ON', 'physical'],
    ['1', 'physical'],
    ['y', 'physical'],
    ['database', 'database'],
    ['false', 'none'],
    ['0', 'none'],
    ['of', 'none'],
  ])('replication=%s is %s', (value, expected) => {
    expect(parseStartup(body(alice, ['replication', value])).replication).toBe(expected);
  });

  it.each(['', 'o', 'maybe', 'Database '])('replication=%s is nothing', (value) => {
    expect(() => parseStartup(body(alice, ['replication', value]))).toThrow(/replication/);
  });
});

describe('settings at sign-in', () => {
  const asked = (...pairs: [string, string][]) => inspectSettings(parseStartup(body(alice, ...pairs)));
  const roleOf = (...pairs: [string, string][]) => asked(...pairs).role;

  it.each([
    ['options', '-c role=other'],
    ['options', '-crole=other'],
    ['options', '--role=other'],
    ['options', '-c ROLE=other'],
    ['options', '-c\trole=\\o\\ther'],
    ['role', 'other'],
    ['ROLE', 'other'],
  ])('%s "%s" switches the role', (name, value) => {
    expect(roleOf([name, value])).toBe('other');
  });

  it('takes the role that the server would: parameters after options, the last one', () => {
    expect(roleOf(['role', 'second'], ['options', '-c role=first'])).toBe('second');
    expect(roleOf(['options', '-c role=first -c role=last'])).toBe('last');
    expect(roleOf(['role', 'NONE'])).toBeNull();
    expect(roleOf(['application_name', 'role=x'])).toBeNull();
  });

  it.each([
    '-B 10',
    '-d 5',
    '-e',
    'stray',
    '-c',
    '-c novalue',
    '--fsync',
    '-c session_preload_libraries=x',
    '--session-preload-libraries=x',
    '-c Log_Statement=none',
    '-c session_replication_role=replica',
    '-c session_authorization=postgres',
  ])('options "%s" are refused', (options) => {
    expect(asked(['options', options]).refusal).toMatchObject({ code: 'option_not_allowed' });
  });

  it('refuses the same settings as parameters of their own', () => {
    expect(asked(['LOCAL_PRELOAD_LIBRARIES', 'x']).refusal).toBeInstanceOf(Refusal);
    expect(asked(['log_min_messages', 'panic']).refusal).toBeInstanceOf(Refusal);
  });

  it('puts enforced settings last, and the client’s own of that name nowhere', () => {
    const startup = parseStartup(
      body(
        alice,
        ['Default_Transaction_Read_Only', 'off'],
        ['options', '-c default-transaction-read-only=off -c search_path=a\\ b,c -c DateStyle=ISO'],
        ['TimeZone', 'UTC'],
      ),
    );
    const sent = parametersWith(startup, [{ name: 'default_transaction_read_only', value: 'on' }]);
    expect(sent.map(([name]) => name)).toEqual(['options', 'TimeZone', 'default_transaction_read_only']);
    expect(parseOptions(sent[0]![1])).toEqual([
      { name: 'search_path', value: 'a b,c' },
      { name: 'DateStyle', value: 'ISO' },
    ]);
  });

  it('reads back what it writes', () => {
    const settings = [
      { name: 'a', value: 'x y\\z\t"\'' },
      { name: 'b_c', value: '' },
    ];
    expect(parseOptions(formatOptions(settings))).toEqual(settings);
  });
});
