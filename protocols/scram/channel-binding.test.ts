import { createHash, X509Certificate } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { type KeyType, makeAuthority } from '../../test/support/certificates.ts';
import { tlsServerEndPoint } from './channel-binding.ts';

describe('tls-server-end-point', () => {
  it.each([
    ['ecdsa', 'sha256'],
    ['ecdsa-sha512', 'sha512'],
    ['rsa', 'sha256'],
    ['rsa-sha384', 'sha384'],
    ['rsa-pss', 'sha512'],
  ] as [KeyType, string][])(
    'takes the hash of a certificate that an authority with %s signed',
    async (keyType, hash) => {
      const authority = await makeAuthority('Binding', keyType);
      const { der } = await authority.issue({ commonName: 'db.test' });
      expect(tlsServerEndPoint(der)).toEqual(createHash(hash).update(der).digest());
    },
  );

  it('has none for Ed25519', async () => {
    const authority = await makeAuthority('Binding', 'ed25519');
    const { der } = await authority.issue({ commonName: 'db.test' });
    expect(tlsServerEndPoint(der)).toBeNull();
  });

  it('replaces SHA-1 by SHA-256', () => {
    const { raw } = new X509Certificate(SHA1_CERTIFICATE);
    expect(tlsServerEndPoint(raw)).toEqual(createHash('sha256').update(raw).digest());
  });

  it('reads no byte behind the end, wherever the certificate is cut or changed', async () => {
    const { der } = await (await makeAuthority('Binding', 'rsa-pss')).issue({ commonName: 'db.test' });
    for (let end = 0; end < der.length; end++) expect(tlsServerEndPoint(der.subarray(0, end))).toBeNull();
    for (let at = 0; at < der.length; at++) {
      const changed = Buffer.from(der);
      changed[at]! ^= 0xff;
      tlsServerEndPoint(changed);
    }
  });
});

/** Self-signed by sha1WithRSAEncryption, which no current tool makes by itself. Holds no secret. */
const SHA1_CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIICBjCCAW+gAwIBAgIUP6vS8+mu3RKtO+AsmEcuep8H3L0wDQYJKoZIhvcNAQEF
BQAwFDESMBAGA1UEAwwJc2hhMS50ZXN0MCAXDTI2MTEyNDEwNTExMVoYDzIxMjYx
MDMxMTA1MTExWjAUMRIwEAYDVQQDDAlzaGExLnRlc3QwgZ8wDQYJKoZIhvcNAQEB
BQADgY0AMIGJAoGBALDc1+WzzkYmhcqGgD5GiGBAMzRmNr8LGECv6O4JNhGD2W1H
afJTkTwQhXuTRpFkaauX09p1ibW2S8wfAc0QvaMURlv4d00Fp82LrNoSsWZ46lfm
KPPDWAuU5Np1ACkvm09BH+zw1g+p2h8suwf+2lDlQ8vQvD7ZCaRkqh8bYNwpAgMB
AAGjUzBRMB0GA1UdDgQWBBTmVuaOEB3DpDMp6BchWVH4W7h7YjAfBgNVHSMEGDAW
gBTmVuaOEB3DpDMp6BchWVH4W7h7YjAPBgNVHRMBAf8EBTADAQH/MA0GCSqGSIb3
DQEBBQUAA4GBADtseRfcSBOLN445AwHWSH9yUOMbE6+x9G00zT/ayaj6vuzPCF4l
IeHwhlXWhuUCB7UuFsMoji00c/J4hLoaX7/+Fvm4wDyEYdKybxUtA+HjDAlLytzF
5unVO+vGAOeXFga6z/Wv3ljC0CNoluWlqvMqabeGfnvgFAkiZESE4lKK
-----END CERTIFICATE-----`;
