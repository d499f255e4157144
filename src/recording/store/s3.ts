import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import type * as S3 from '@aws-sdk/client-s3';
import type { Config } from '../../config/schema.ts';
import { S3_PART_BYTES } from '../limits.ts';
import { type RecordingStore, type StoredObject, StoreError } from './store.ts';

type Options = Extract<Config['recording']['store'], { type: 's3' }>;

/** Kept with each object, so that storing the same file again can be told from overwriting another. */
const SHA256_FIELD = 'sha256';

/**
 * Recordings in an S3-compatible bucket. The AWS SDK is loaded when there is one. Files larger than one part go up in
 * parts; an upload that was cut short is found again by its key and goes on behind the parts that the store has.
 */
export class S3Store implements RecordingStore {
  readonly name: string;
  readonly #sdk: typeof S3;
  readonly #client: S3.S3Client;
  readonly #options: Options;
  readonly #now: () => number;

  /** Rejects with a `StoreError` when the SDK is not installed. */
  static async open(
    options: Options,
    client: Partial<S3.S3ClientConfig> = {},
    now = Date.now,
  ): Promise<S3Store> {
    let sdk: typeof S3;
    try {
      sdk = await import('@aws-sdk/client-s3');
    } catch (cause) {
      throw new StoreError(
        'unavailable',
        'recordings in S3 need the package @aws-sdk/client-s3: npm install it',
        {
          cause,
        },
      );
    }
    return new S3Store(sdk, options, client, now);
  }

  private constructor(
    sdk: typeof S3,
    options: Options,
    client: Partial<S3.S3ClientConfig>,
    now: () => number,
  ) {
    this.name = `s3://${options.bucket}/${options.prefix}`;
    this.#sdk = sdk;
    this.#options = options;
    this.#now = now;
    this.#client = new sdk.S3Client({
      ...(options.region === undefined ? {} : { region: options.region }),
      ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
      forcePathStyle: options.force_path_style ?? options.endpoint !== undefined,
      // Older stores refuse checksums that they do not know.
      requestChecksumCalculation: options.endpoint === undefined ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      maxAttempts: 3,
      ...client,
    });
  }

  async put(key: string, path: string): Promise<void> {
    const { size } = await stat(path);
    const sha256 = await digestOf(path, 'sha256', 'hex');
    const existing = await this.#head(key);
    if (existing !== null) {
      if (existing === sha256) return;
      throw new StoreError('exists', `${key} exists in ${this.name} with other content`);
    }
    await this.#attempt(`${key} cannot be stored`, async () => {
      if (size <= S3_PART_BYTES) await this.#putWhole(key, path, sha256);
      else await this.#putParts(key, path, size, sha256);
    });
  }

  async get(key: string): Promise<Buffer> {
    return this.#attempt(`${key} cannot be read`, async () => {
      const { Body } = await this.#client.send(new this.#sdk.GetObjectCommand(this.#at(key)));
      return Buffer.from(await Body!.transformToByteArray());
    });
  }

  async list(prefix: string): Promise<StoredObject[]> {
    return this.#attempt('the bucket cannot be listed', async () => {
      const objects: StoredObject[] = [];
      let token: string | undefined;
      do {
        const page: S3.ListObjectsV2CommandOutput = await this.#client.send(
          new this.#sdk.ListObjectsV2Command({
            Bucket: this.#options.bucket,
            Prefix: this.#options.prefix + prefix,
            ...(token === undefined ? {} : { ContinuationToken: token }),
          }),
        );
        for (const { Key, Size, LastModified } of page.Contents ?? []) {
          objects.push({
            key: Key!.slice(this.#options.prefix.length),
            size: Size ?? 0,
            modifiedAt: LastModified?.getTime() ?? 0,
          });
        }
        token = page.NextContinuationToken;
      } while (token !== undefined);
      return objects.sort((left, right) => (left.key < right.key ? -1 : 1));
    });
  }

  /**
   * In a bucket with versions, a delete without one would only hide the object. The version goes, or the store says that
   * it is locked.
   */
  async delete(key: string): Promise<void> {
    await this.#attempt(`${key} cannot be deleted`, async () => {
      const versions = await this.#versions(key);
      for (const VersionId of versions)
        await this.#client.send(
          new this.#sdk.DeleteObjectCommand({
            ...this.#at(key),
            ...(VersionId === null ? {} : { VersionId }),
          }),
        );
    });
  }

  async check(): Promise<void> {
    await this.#attempt('the bucket cannot be reached', () =>
      this.#client.send(new this.#sdk.HeadBucketCommand({ Bucket: this.#options.bucket })),
    );
  }

  close(): Promise<void> {
    this.#client.destroy();
    return Promise.resolve();
  }

  #at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.#options.bucket, Key: this.#options.prefix + key };
  }

  /** The object's SHA-256 as it was stored; null where there is no object. */
  async #head(key: string): Promise<string | null> {
    try {
      const { Metadata } = await this.#client.send(new this.#sdk.HeadObjectCommand(this.#at(key)));
      return Metadata?.[SHA256_FIELD] ?? '';
    } catch (error) {
      if (statusOf(error) === 404) return null;
      throw this.#failure('the store cannot be reached', error);
    }
  }

  async #versions(key: string): Promise<(string | null)[]> {
    try {
      const { Versions } = await this.#client.send(
        new this.#sdk.ListObjectVersionsCommand({
          Bucket: this.#options.bucket,
          Prefix: this.#options.prefix + key,
        }),
      );
      const own = (Versions ?? []).filter(({ Key }) => Key === this.#options.prefix + key);
      return own.length === 0
        ? [null]
        : own.map(({ VersionId }) => (VersionId === 'null' ? null : (VersionId ?? null)));
    } catch (error) {
      // Not every store knows versions.
      if ([400, 403, 404, 405, 501].includes(statusOf(error) ?? 0)) return [null];
      throw error;
    }
  }

  #lock():
    | { ObjectLockMode: 'GOVERNANCE' | 'COMPLIANCE'; ObjectLockRetainUntilDate: Date }
    | Record<string, never> {
    const lock = this.#options.object_lock;
    if (lock === undefined) return {};
    return {
      ObjectLockMode: lock.mode === 'compliance' ? 'COMPLIANCE' : 'GOVERNANCE',
      ObjectLockRetainUntilDate: new Date(this.#now() + lock.period),
    };
  }

  async #putWhole(key: string, path: string, sha256: string): Promise<void> {
    const file = await open(path);
    try {
      const Body = await file.readFile();
      await this.#client.send(
        new this.#sdk.PutObjectCommand({
          ...this.#at(key),
          ...this.#lock(),
          Body,
          ContentLength: Body.length,
          // Object lock asks for a digest, whatever the client does by itself.
          ContentMD5: createHash('md5').update(Body).digest('base64'),
          ContentType: 'application/octet-stream',
          Metadata: { [SHA256_FIELD]: sha256 },
        }),
      );
    } finally {
      await file.close();
    }
  }

  async #putParts(key: string, path: string, size: number, sha256: string): Promise<void> {
    const at = this.#at(key);
    const resumed = await this.#resumable(key, path);
    const UploadId = resumed?.id ?? (await this.#beginUpload(at, sha256));
    const done = resumed?.parts ?? new Map<number, { etag: string; size: number }>();
    const file = await open(path);
    try {
      const Parts: S3.CompletedPart[] = [];
      for (let offset = 0, number = 1; offset < size; offset += S3_PART_BYTES, number += 1) {
        const length = Math.min(S3_PART_BYTES, size - offset);
        const Body = Buffer.alloc(length);
        await file.read(Body, 0, length, offset);
        const digest = createHash('md5').update(Body).digest();
        const known = done.get(number);
        if (known !== undefined) {
          Parts.push({ PartNumber: number, ETag: `"${known.etag}"` });
          continue;
        }
        const { ETag } = await this.#client.send(
          new this.#sdk.UploadPartCommand({
            ...at,
            UploadId,
            PartNumber: number,
            Body,
            ContentLength: length,
            ContentMD5: digest.toString('base64'),
          }),
        );
        Parts.push({ PartNumber: number, ETag });
      }
      await this.#client.send(
        new this.#sdk.CompleteMultipartUploadCommand({ ...at, UploadId, MultipartUpload: { Parts } }),
      );
    } finally {
      await file.close();
    }
  }

  async #beginUpload(at: { Bucket: string; Key: string }, sha256: string): Promise<string> {
    const { UploadId } = await this.#client.send(
      new this.#sdk.CreateMultipartUploadCommand({
        ...at,
        ...this.#lock(),
        ContentType: 'application/octet-stream',
        Metadata: { [SHA256_FIELD]: sha256 },
      }),
    );
    return UploadId!;
  }

  /** An unfinished upload whose parts are these very bytes; one of other bytes is given up. */
  async #resumable(key: string, path: string): Promise<Unfinished | null> {
    const unfinished = await this.#unfinished(key);
    if (unfinished === null) return null;
    const file = await open(path);
    try {
      for (const [number, { etag, size }] of unfinished.parts) {
        const bytes = Buffer.alloc(size);
        await file.read(bytes, 0, size, (number - 1) * S3_PART_BYTES);
        if (createHash('md5').update(bytes).digest('hex') === etag) continue;
        const upload = { ...this.#at(key), UploadId: unfinished.id };
        await this.#client.send(new this.#sdk.AbortMultipartUploadCommand(upload));
        return null;
      }
    } finally {
      await file.close();
    }
    return unfinished;
  }

  /** An upload of this key that was begun and not completed, and the parts that the store has of it. */
  async #unfinished(key: string): Promise<Unfinished | null> {
    const { Key } = this.#at(key);
    const { Uploads } = await this.#client.send(
      new this.#sdk.ListMultipartUploadsCommand({ Bucket: this.#options.bucket, Prefix: Key }),
    );
    const upload = (Uploads ?? []).find((one) => one.Key === Key);
    if (upload?.UploadId === undefined) return null;
    const { Parts } = await this.#client.send(
      new this.#sdk.ListPartsCommand({ ...this.#at(key), UploadId: upload.UploadId }),
    );
    const parts = new Map<number, { etag: string; size: number }>();
    for (const { PartNumber, ETag, Size } of Parts ?? [])
      parts.set(PartNumber!, { etag: (ETag ?? '').replaceAll('"', ''), size: Size ?? 0 });
    return { id: upload.UploadId, parts };
  }

  async #attempt<T>(what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#failure(what, error);
    }
  }

  #failure(what: string, error: unknown): StoreError {
    if (error instanceof StoreError) return error;
    const { name } = error as Error;
    const status = statusOf(error);
    if (status === 404 && name !== 'NoSuchBucket')
      return new StoreError('not_found', `${this.name}: ${what}: there is no such object`, { cause: error });
    const locked =
      status === 403 && /lock|retention|WORM|AccessDenied/i.test(`${name} ${(error as Error).message}`);
    const code = locked && what.endsWith('deleted') ? 'held' : 'unavailable';
    return new StoreError(
      code,
      `${this.name}: ${what}: ${name}${status === undefined ? '' : ` (${status})`}`,
      {
        cause: error,
      },
    );
  }
}

interface Unfinished {
  readonly id: string;
  readonly parts: ReadonlyMap<number, { readonly etag: string; readonly size: number }>;
}

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
}

async function digestOf(path: string, algorithm: string, encoding: 'hex' | 'base64'): Promise<string> {
  const digest = createHash(algorithm);
  for await (const chunk of createReadStream(path)) digest.update(chunk as Buffer);
  return digest.digest(encoding);
}
