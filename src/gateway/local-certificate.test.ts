import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tls from 'node:tls';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { localCertificate } from './local-certificate.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'sallyport-local-certificate-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('a tool that is pointed at the certificate may verify the local name', async () => {
  const { cert, key } = await localCertificate(folder);
  const server = tls.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (socket) =>
    socket.end('hello'),
  );
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  try {
    for (const servername of ['localhost', '127.0.0.1']) {
      const socket = tls.connect({
        host: '127.0.0.1',
        port,
        ca: readFileSync(cert),
        ...(servername === 'localhost' ? { servername } : {}),
      });
      await new Promise<void>((resolve, reject) =>
        socket.once('secureConnect', resolve).once('error', reject),
      );
      expect(socket.authorized).toBe(true);
      socket.destroy();
    }
  } finally {
    server.close();
  }
});

test('it is made once, is nobody else’s to read, and is made anew when it is broken', async () => {
  const { cert, key } = await localCertificate(folder);
  const first = readFileSync(cert, 'utf8');
  expect(statSync(key).mode & 0o777).toBe(0o600);
  await localCertificate(folder);
  expect(readFileSync(cert, 'utf8')).toBe(first);
  writeFileSync(cert, 'broken');
  await localCertificate(folder);
  expect(readFileSync(cert, 'utf8')).toContain('BEGIN CERTIFICATE');
});
