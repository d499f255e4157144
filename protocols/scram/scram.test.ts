import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { ProtocolError } from '../error.ts';
import { startScram } from './client.ts';
import { DerivedKeys, deriveKeys, keysFrom } from './keys.ts';
import { preparePassword } from './saslprep.ts';
import { challengeScram, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, type ScramVerifier } from './server.ts';

const PENCIL = {
  password: Buffer.from('pencil'),
  salt: Buffer.from('W22ZaJ0SNY7soEsUEjb6gQ==', 'base64'),
  clientNonce: 'rOprNGfwEbeRWgbNEkqO',
  serverNonce: '%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0',
};
const SERVER_FIRST = `r=${PENCIL.clientNonce}${PENCIL.serverNonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`;

function pencilClient(changes: Partial<Parameters<typeof startScram>[0]> = {}) {
  return startScram({
    binding: { kind: 'none' },
    nonce: PENCIL.clientNonce,
    iterationsMax: 100_000,
    derive: (salt, iterations) => deriveKeys(PENCIL.password, salt, iterations),
    ...changes,
  });
}

async function verifierOf(password: Buffer, salt = PENCIL.salt, iterations = 4096): Promise<ScramVerifier> {
  const { storedKey, serverKey } = await deriveKeys(password, salt, iterations);
  return { salt, iterations, storedKey, serverKey };
}

describe('SCRAM keys', () => {
  it('are those of the specification', async () => {
    const keys = await deriveKeys(PENCIL.password, PENCIL.salt, 4096);
    expect(keys.clientKey.toString('hex')).toBe(
      'a60fc923d67e8644a92d16b96eda5ef4656b0c725c484374be25535576996e8b',
    );
    expect(keys.storedKey.toString('hex')).toBe(
      '586e5df283e6dceb5c3e791d8b8528ec191e664045ce971792e2e6b5bb13e2a6',
    );
    expect(keys.serverKey.toString('hex')).toBe(
      'c1f3cbc1c13a9d35a14c0990eed97629ea225863e566a4314ab99f3f00e5d9d5',
    );
    const salted = Buffer.from('c4a49510323ab4f952cac1fa99441939e78ea74d6be81ddf7096e87513dc615d', 'hex');
    expect(keysFrom(salted)).toEqual(keys);
  });

  it('are derived once for an account, and not kept for a password that failed', async () => {
    const derived = new DerivedKeys();
    const again = (password: string) =>
      derived.derive(Buffer.from(password), PENCIL.salt, 4096, (length) => Buffer.alloc(length, 7));
    const [first, second] = await Promise.all([again('pencil'), again('pencil')]);
    expect(second).toBe(first);
    expect(await again('pencil')).toBe(first);
    expect(await again('pencils')).not.toEqual(first);
    expect(derived.size).toBe(2);
    derived.forget(PENCIL.password, PENCIL.salt, 4096);
    expect(derived.size).toBe(1);
    expect(await again('pencil')).not.toBe(first);
  });

  it('are right for every one of many sign-ins at once, the password wiped as soon as it was handed over', async () => {
    const derived = new DerivedKeys();
    const results = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const password = Buffer.from(`password ${index}`);
        const keys = derived.derive(password, PENCIL.salt, 1, (length) => randomBytes(length));
        password.fill(0);
        return keys;
      }),
    );
    for (const [index, keys] of results.entries()) {
      expect(keys).toEqual(await deriveKeys(Buffer.from(`password ${index}`), PENCIL.salt, 1));
    }
  });
});

describe('SCRAM toward a server', () => {
  it('answers as in the specification, and takes the signature', async () => {
    const started = pencilClient();
    expect(started.message.toString()).toBe('n,,n=,r=rOprNGfwEbeRWgbNEkqO');
    const answered = await started.answer(Buffer.from(SERVER_FIRST));
    expect(answered.message.toString()).toBe(
      `c=biws,r=${PENCIL.clientNonce}${PENCIL.serverNonce},p=qvT2SWdEH5Q06albL+hjSYuUhCG7VndFyzIb7CK4n9k=`,
    );
    answered.verify(Buffer.from('v=3HO6Qt1M4MKJrmlKaoOqLAI0/0TV0HZe7J9H3MBtSOg='));
  });

  it('answers as it did to PostgreSQL 15, bound to its certificate', async () => {
    const password = Buffer.from('scram_secret');
    const started = startScram({
      binding: {
        kind: 'bound',
        data: Buffer.from('48ba405cb60be79b528d562200b46cff2c0ebf0ad24cd86ce4699941bd94e458', 'hex'),
      },
      nonce: 'fyko+d2lbbFgONRv9qkxdawL',
      iterationsMax: 4096,
      derive: (salt, iterations) => deriveKeys(password, salt, iterations),
    });
    const nonce = 'fyko+d2lbbFgONRv9qkxdawLfOORmXJ0Sm8wv0/koUw4FoEG';
    const answered = await started.answer(Buffer.from(`r=${nonce},s=hjgvXPalxI1az16sA7PuDg==,i=4096`));
    expect(answered.message.toString()).toBe(
      `c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsSLpAXLYL55tSjVYiALRs/ywOvwrSTNhs5GmZQb2U5Fg=,r=${nonce},p=+l2uCkjr7KIao4wfUe4yzFwXmWqeTh5CsOre42MbLRU=`,
    );
    answered.verify(Buffer.from('v=Bi9V787GB6M6FO6usE5cy51iinUK7FEkZzheY5/2vts='));
  });

  it('says which channel binding it would have liked', () => {
    expect(pencilClient({ binding: { kind: 'not_offered' } }).message.toString()).toMatch(/^y,,/);
    const data = Buffer.alloc(32);
    expect(pencilClient({ binding: { kind: 'bound', data } }).message.toString()).toMatch(
      /^p=tls-server-end-point,,/,
    );
  });

  const both = `${PENCIL.clientNonce}${PENCIL.serverNonce}`;
  it.each([
    [
      'a nonce that is not extended',
      `r=${PENCIL.clientNonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`,
      'server_untrusted',
    ],
    ['a nonce that is not ours', 'r=someoneElsesNonce,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096', 'server_untrusted'],
    ['no rounds', `r=${both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0`, 'malformed'],
    ['one round', `r=${both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1`, 'server_untrusted'],
    ['too many rounds', `r=${both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=20000000`, 'server_untrusted'],
    ['rounds beyond all numbers', `r=${both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999999999999999`, 'malformed'],
    ['no salt', `r=${both},s=,i=4096`, 'malformed'],
    ['a salt that is not base64', `r=${both},s=W22ZaJ0SNY7soEsUEjb6gR==,i=4096`, 'malformed'],
    ['another order', `s=W22ZaJ0SNY7soEsUEjb6gQ==,r=${both},i=4096`, 'malformed'],
    ['a mandatory extension', `m=x,r=${both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`, 'malformed'],
    [
      'a message that is too long',
      `r=${both}${'x'.repeat(5000)},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`,
      'length_out_of_range',
    ],
    ['an unprintable nonce', `r=${both}\u0007,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096`, 'malformed'],
    ['nothing', '', 'malformed'],
  ])('makes no proof for %s', async (_, serverFirst, code) => {
    let derived = 0;
    const started = pencilClient({
      derive: (salt, iterations) => {
        derived += 1;
        return deriveKeys(PENCIL.password, salt, iterations);
      },
    });
    await expect(started.answer(Buffer.from(serverFirst))).rejects.toMatchObject({ code, fault: 'server' });
    expect(derived).toBe(0);
  });

  it('takes few rounds from a server that TLS has verified', async () => {
    const started = pencilClient({ iterationsMin: 1 });
    const answered = await started.answer(Buffer.from(`r=${both},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1`));
    expect(answered.message.length).toBeGreaterThan(0);
  });

  it.each([
    ['a wrong signature', 'v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=', 'server_untrusted'],
    ['a short signature', 'v=AAAA', 'server_untrusted'],
    ['nothing', '', 'malformed'],
    ['its own failure', 'e=other-error', 'authentication_failed'],
  ])('does not trust a server that ends with %s', async (_, serverFinal, code) => {
    const answered = await pencilClient().answer(Buffer.from(SERVER_FIRST));
    expect(() => answered.verify(Buffer.from(serverFinal))).toThrow(
      expect.objectContaining({ code, fault: 'server' }),
    );
  });
});

describe('SCRAM toward a client', () => {
  it('lets in who knows the password, whatever user name the client writes', async () => {
    const verifier = await verifierOf(PENCIL.password);
    const challenged = challengeScram(
      { bindingData: null, nonce: PENCIL.serverNonce, verifier },
      SCRAM_SHA_256,
      Buffer.from(`n,,n=user,r=${PENCIL.clientNonce}`),
    );
    expect(challenged.message.toString()).toBe(SERVER_FIRST);
    const finished = challenged.finish(
      Buffer.from(`c=biws,r=${both()},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=`),
    );
    expect(finished.valid).toBe(true);
    expect(finished.message.toString()).toBe('v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=');
  });

  it.each([
    ['without channel binding', null, SCRAM_SHA_256, 'n=*'],
    ['with channel binding', randomBytes(32), SCRAM_SHA_256_PLUS, 'n='],
  ] as const)('agrees with our own client %s', async (_, bindingData, mechanism, name) => {
    const verifier = await verifierOf(PENCIL.password);
    const started = pencilClient({
      binding: bindingData === null ? { kind: 'none' } : { kind: 'bound', data: bindingData },
    });
    const challenged = challengeScram(
      { bindingData, nonce: 'serverpart', verifier },
      mechanism,
      started.message,
    );
    const answered = await started.answer(challenged.message);
    const finished = challenged.finish(answered.message);
    expect(finished.valid).toBe(true);
    answered.verify(finished.message);
    expect(name).toBeDefined();
  });

  it('says no to a wrong password', async () => {
    const verifier = await verifierOf(Buffer.from('another'));
    const started = pencilClient();
    const challenged = challengeScram(
      { bindingData: null, nonce: 'x', verifier },
      SCRAM_SHA_256,
      started.message,
    );
    const answered = await started.answer(challenged.message);
    expect(challenged.finish(answered.message).valid).toBe(false);
  });

  const data = Buffer.alloc(32, 1);
  it.each([
    ['y although binding was offered', SCRAM_SHA_256, data, 'y,,n=,r=abc', 'server_untrusted'],
    ['n with the PLUS mechanism', SCRAM_SHA_256_PLUS, data, 'n,,n=,r=abc', 'malformed'],
    ['p with the plain mechanism', SCRAM_SHA_256, data, 'p=tls-server-end-point,,n=,r=abc', 'malformed'],
    ['another kind of binding', SCRAM_SHA_256_PLUS, data, 'p=tls-unique,,n=,r=abc', 'malformed'],
    [
      'PLUS where it was not offered',
      SCRAM_SHA_256_PLUS,
      null,
      'p=tls-server-end-point,,n=,r=abc',
      'malformed',
    ],
    ['an unknown mechanism', 'SCRAM-SHA-1', null, 'n,,n=,r=abc', 'malformed'],
    ['an authorization identity', SCRAM_SHA_256, null, 'n,a=root,n=,r=abc', 'unsupported'],
    ['a mandatory extension', SCRAM_SHA_256, null, 'n,,m=x,n=,r=abc', 'unsupported'],
    ['an unprintable nonce', SCRAM_SHA_256, null, 'n,,n=,r=a\u0001c', 'malformed'],
    ['no flag', SCRAM_SHA_256, null, 'n=,r=abc', 'malformed'],
    ['a message that is too long', SCRAM_SHA_256, null, `n,,n=,r=${'a'.repeat(1100)}`, 'length_out_of_range'],
  ])('refuses %s', async (_, mechanism, bindingData, clientFirst, code) => {
    const verifier = await verifierOf(PENCIL.password, PENCIL.salt, 1);
    const act = () =>
      challengeScram({ bindingData, nonce: 'x', verifier }, mechanism, Buffer.from(clientFirst));
    expect(act).toThrow(ProtocolError);
    expect(act).toThrow(expect.objectContaining({ code, fault: 'client' }));
  });

  it.each([
    ['another nonce', 'c=biws,r=abcy,p=AAAA', 'malformed'],
    ['another header', 'c=eSws,r=abcx,p=AAAA', 'malformed'],
    ['a short proof', 'c=biws,r=abcx,p=AAAA', 'malformed'],
    ['no proof', 'c=biws,r=abcx', 'malformed'],
  ])('refuses %s at the end', async (_, clientFinal, code) => {
    const verifier = await verifierOf(PENCIL.password, PENCIL.salt, 1);
    const challenged = challengeScram(
      { bindingData: null, nonce: 'x', verifier },
      SCRAM_SHA_256,
      Buffer.from('n,,n=,r=abc'),
    );
    expect(() => challenged.finish(Buffer.from(clientFinal))).toThrow(
      expect.objectContaining({ code, fault: 'client' }),
    );
  });

  it('notices a certificate that is not its own', async () => {
    const verifier = await verifierOf(PENCIL.password, PENCIL.salt, 1);
    const started = pencilClient({ binding: { kind: 'bound', data: Buffer.alloc(32, 9) }, iterationsMin: 1 });
    const challenged = challengeScram(
      { bindingData: data, nonce: 'x', verifier },
      SCRAM_SHA_256_PLUS,
      started.message,
    );
    const answered = await started.answer(challenged.message);
    expect(() => challenged.finish(answered.message)).toThrow(
      expect.objectContaining({ code: 'server_untrusted', fault: 'client' }),
    );
  });

  function both(): string {
    return `${PENCIL.clientNonce}${PENCIL.serverNonce}`;
  }
});

describe('SASLprep as PostgreSQL does it', () => {
  // Right column: what PostgreSQL 15 and 18 derive from; the passwords that SASLprep rejects are taken as they are.
  it.each([
    ['plain ASCII', 'pencil', 'pencil'],
    ['ª', '\u00aa', 'a'],
    ['a soft hyphen', 'I\u00adX', 'IX'],
    ['Ⅸ', '\u2168', 'IX'],
    ['an ideographic space', 'a\u3000b', 'a b'],
    ['a zero width space', 'a\u200bb', 'a b'],
    ['a lone soft hyphen', '\u00ad', '\u00ad'],
    ['BEL beside a letter', 'é\u0007', 'é\u0007'],
    ['Arabic and a digit at the end', '\u06271', '\u06271'],
    ['Arabic', '\u0627\u0628', '\u0627\u0628'],
    ['unassigned in Unicode 3.2', '\u0221', '\u0221'],
    ['an emoji, unassigned in Unicode 3.2', 'p\u{1f680}w', 'p\u{1f680}w'],
    ['a letter and a combining accent', 'e\u0301', 'é'],
    ['a ligature', '\ufb01', 'fi'],
  ])('%s', (_, password, prepared) => {
    expect(preparePassword(Buffer.from(password)).toString()).toBe(prepared);
  });

  it('takes bytes that are not UTF-8 as they are', () => {
    const bytes = Buffer.from([0xff, 0xfe, 0x41]);
    expect(preparePassword(bytes)).toBe(bytes);
  });
});
