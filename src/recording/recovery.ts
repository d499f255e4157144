import { createHash, sign } from 'node:crypto';
import { createReadStream, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bootLockPath, Lock } from './lock.ts';
import { listBoots, listSegments, openBoot, type SegmentFile } from './reader.ts';
import { Sealer, type SealerOptions } from './sealer.ts';
import type { RecordingStore } from './store/store.ts';

/**
 * Finishes what earlier boots left unsealed. Where an identity opens their data key, their sessions become recordings,
 * and those that were open are marked `interrupted`. Where only reviewers can open it, the segments go to the store as
 * they are, with a signed list: nothing is lost, and the gateway's disk alone still shows nothing.
 *
 * Only for the process that holds the journal's lock. `isCurrent` says which boots are of its own run: these are left
 * alone, and so are those whose process still lives, as one does for a moment that lost the process it worked for.
 */
export async function recoverJournal(
  options: Omit<SealerOptions, 'boot' | 'bootKey' | 'resumed'> & {
    readonly isCurrent: (boot: string) => boolean;
    readonly identities: readonly string[];
  },
): Promise<Recovered> {
  const { journalDirectory, isCurrent, identities, log } = options;
  const recovered: Recovered = { sealed: [], bundled: [], alive: [] };
  for (const boot of listBoots(journalDirectory)) {
    // The lock first: a boot of this run is known before its process has one.
    const isHeld = Lock.isHeld(bootLockPath(journalDirectory, boot));
    if (isCurrent(boot)) continue;
    if (isHeld) {
      recovered.alive.push(boot);
      continue;
    }
    const { bootKey } = await openBoot(journalDirectory, boot, identities).catch(() => ({ bootKey: null }));
    if (bootKey !== null) {
      const sealer = new Sealer({ ...options, boot, bootKey, resumed: true });
      await sealer.finish();
      sealer.release(true);
      recovered.sealed.push(boot);
    } else {
      await bundle(boot, options);
      recovered.bundled.push(boot);
    }
    rmSync(bootLockPath(journalDirectory, boot), { force: true });
    log?.info({ boot, readable: bootKey !== null }, 'an earlier run of the gateway was finished');
  }
  return recovered;
}

export interface Recovered {
  /** Boots whose sessions are recordings now. */
  readonly sealed: string[];
  /** Boots whose segments were stored as they are. */
  readonly bundled: string[];
  /** Boots of processes that still run: to be finished later. */
  readonly alive: string[];
}

export const BUNDLE_FORMAT = 'sallyport journal bundle 1';

/** Keys of stored segments begin with this. */
export function bundlePrefix(boot: string): string {
  return `journal/${boot}/`;
}

async function bundle(
  boot: string,
  options: Pick<SealerOptions, 'journalDirectory' | 'spoolDirectory' | 'store' | 'signing' | 'gateway'>,
): Promise<void> {
  const { journalDirectory, spoolDirectory, store, signing, gateway } = options;
  const segments = listSegments(journalDirectory).filter((file) => file.boot === boot);
  const bundled = await store.list(`${bundlePrefix(boot)}manifest`);
  if (bundled.length > 0) {
    // The list goes last: where it is, all segments are.
    for (const { path } of segments) rmSync(path, { force: true });
    return;
  }
  const list = await Promise.all(
    segments.map(async ({ name, size, path }) => ({ name, size, sha256: await sha256Of(path) })),
  );
  const text = JSON.stringify({
    format: BUNDLE_FORMAT,
    boot,
    gateway,
    signing_key: signing.publicBytes,
    segments: list,
  });
  mkdirSync(spoolDirectory, { recursive: true, mode: 0o700 });
  const manifest = join(spoolDirectory, `${boot}.manifest`);
  const signature = sign(null, Buffer.from(text), signing.privateKey).toString('base64');
  writeFileSync(manifest, `${text}\n${signature}\n`, { mode: 0o600 });
  for (const { name, path } of segments) await store.put(bundlePrefix(boot) + name, path);
  await store.put(`${bundlePrefix(boot)}manifest`, manifest);
  rmSync(manifest, { force: true });
  for (const { path } of segments) rmSync(path, { force: true });
}

async function sha256Of(path: SegmentFile['path']): Promise<string> {
  const digest = createHash('sha256');
  for await (const chunk of createReadStream(path)) digest.update(chunk as Buffer);
  return digest.digest('hex');
}

/** The stored journal of one run, as far as it can be known without a key. */
export interface Bundle {
  readonly boot: string;
  /** Null where its list is missing: it was not stored whole. */
  readonly gateway: string | null;
  /** Keys in the store. */
  readonly segments: readonly string[];
  readonly manifest: string | null;
  readonly bytes: number;
  /** When the last of it was stored; milliseconds since the epoch. */
  readonly storedAt: number;
}

/** The journals in the store that could not be recovered, oldest first. Reads their lists. */
export async function bundlesIn(store: RecordingStore): Promise<Bundle[]> {
  const byBoot = Map.groupBy(await store.list('journal/'), ({ key }) => key.split('/')[1]!);
  const bundles: Bundle[] = [];
  for (const [boot, objects] of [...byBoot].sort()) {
    if (!/^[0-9A-Z]{26}$/.test(boot)) continue;
    const manifest = `${bundlePrefix(boot)}manifest`;
    const isListed = objects.some(({ key }) => key === manifest);
    bundles.push({
      boot,
      gateway: isListed ? gatewayIn(await store.get(manifest)) : null,
      segments: objects.map(({ key }) => key).filter((key) => key !== manifest),
      manifest: isListed ? manifest : null,
      bytes: objects.reduce((sum, { size }) => sum + size, 0),
      storedAt: Math.max(...objects.map(({ modifiedAt }) => modifiedAt)),
    });
  }
  return bundles;
}

function gatewayIn(manifest: Buffer): string | null {
  try {
    const { gateway } = JSON.parse(manifest.toString('utf8').split('\n')[0]!) as { gateway?: unknown };
    return typeof gateway === 'string' ? gateway : null;
  } catch {
    return null;
  }
}

/** Whether any bundle is in the store: the boots that reviewers may still have to open. */
export async function listBundles(store: RecordingStore): Promise<string[]> {
  const boots = new Set<string>();
  for (const { key } of await store.list('journal/')) {
    const boot = /^journal\/([0-9A-Z]{26})\//.exec(key)?.[1];
    if (boot !== undefined) boots.add(boot);
  }
  return [...boots].sort();
}
