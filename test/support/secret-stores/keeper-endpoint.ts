import {
  createCipheriv,
  createDecipheriv,
  createECDH,
  createHash,
  createPublicKey,
  createVerify,
  generateKeyPairSync,
  randomBytes,
} from 'node:crypto';
import { type HttpDouble, startHttpDouble } from './http-double.ts';

/**
 * An endpoint for Keeper's SDK: `get_secret` with the SDK's own encryption (the transmission key to the server's public
 * key by ECIES, payloads and records by AES-256-GCM), and the device's signature checked.
 */
export interface KeeperEndpoint extends HttpDouble {
  /** The device configuration that the SDK is given. */
  readonly configuration: Readonly<Record<string, string>>;
  addRecord(record: KeeperTestRecord): string;
  /** `removed`: answers as for a device that was removed. */
  readonly state: { removed: boolean };
}

export interface KeeperTestRecord {
  readonly title: string;
  readonly fields: readonly {
    readonly type: string;
    readonly label?: string;
    readonly value: readonly unknown[];
  }[];
  readonly custom?: readonly {
    readonly type: string;
    readonly label?: string;
    readonly value: readonly unknown[];
  }[];
}

export async function startKeeperEndpoint(tls: { cert: string; key: string }): Promise<KeeperEndpoint> {
  const server = createECDH('prime256v1');
  server.generateKeys();
  const device = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const appKey = randomBytes(32);
  const clientId = randomBytes(64).toString('base64');
  const records: { uid: string; recordKey: string; data: string }[] = [];
  const devicePublicKey = createPublicKey(device.privateKey);
  const state = { removed: false };

  const double = await startHttpDouble((request) => {
    if (state.removed)
      return { status: 403, body: { result_code: 'access_denied', message: 'Client was removed' } };
    const sealedKey = Buffer.from(String(request.headers['transmissionkey']), 'base64');
    const signature = Buffer.from(
      String(request.headers['authorization']).replace('Signature ', ''),
      'base64',
    );
    const isSigned = createVerify('SHA256')
      .update(Buffer.concat([sealedKey, request.body]))
      .verify(devicePublicKey, signature);
    if (!isSigned)
      return { status: 403, body: { result_code: 'signature', message: 'Signature is invalid' } };
    const shared = createHash('sha256')
      .update(server.computeSecret(sealedKey.subarray(0, 65)))
      .digest();
    const transmissionKey = open(sealedKey.subarray(65), shared);
    const asked = JSON.parse(open(request.body, transmissionKey).toString()) as {
      clientId: string;
      requestedRecords?: string[];
    };
    if (asked.clientId !== clientId) return { status: 403, body: { result_code: 'access_denied' } };
    const wanted = records.filter(({ uid }) => asked.requestedRecords?.includes(uid) ?? true);
    const answer = {
      records: wanted.map(({ uid, recordKey, data }) => ({ recordUid: uid, recordKey, data, revision: 1 })),
      folders: [],
      expiresOn: 0,
    };
    return { status: 200, body: seal(Buffer.from(JSON.stringify(answer)), transmissionKey) };
  }, tls);

  return Object.assign(double, {
    state,
    configuration: {
      hostname: `127.0.0.1:${double.port}`,
      clientId,
      privateKey: device.privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64'),
      appKey: appKey.toString('base64'),
      serverPublicKeyId: '7',
      serverPublicKey: server.getPublicKey().toString('base64url'),
    },
    addRecord: (record: KeeperTestRecord) => {
      const uid = randomBytes(16).toString('base64url');
      const key = randomBytes(32);
      const data = Buffer.from(JSON.stringify({ type: 'databaseCredentials', custom: [], ...record }));
      records.push({
        uid,
        recordKey: seal(key, appKey).toString('base64'),
        data: seal(data, key).toString('base64'),
      });
      return uid;
    },
  });
}

function seal(plain: Buffer, key: Buffer): Buffer {
  const nonce = randomBytes(12);
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  return Buffer.concat([nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

function open(sealed: Buffer, key: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12));
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()]);
}
