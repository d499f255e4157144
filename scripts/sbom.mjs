// Prints a CycloneDX bill of materials of what an installation brings along, from the lock file alone: no network.
//
// `npm sbom --omit=dev` leaves out what development packages need too, although it is installed. So npm is shown a package
// that has no development packages.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const root = new URL('../', import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, root), 'utf8'));
const scratch = mkdtempSync(join(tmpdir(), 'sallyport-sbom-'));
try {
  const manifest = read('package.json');
  const lock = read('package-lock.json');
  delete manifest.devDependencies;
  delete lock.packages[''].devDependencies;
  for (const [path, facts] of Object.entries(lock.packages))
    if (facts.dev || facts.devOptional) delete lock.packages[path];
  // npm names the whole after its folder.
  const folder = join(scratch, manifest.name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify(lock));
  const args = [
    '--sbom-format=cyclonedx',
    '--sbom-type=application',
    '--package-lock-only',
    '--loglevel=error',
  ];
  execFileSync('npm', ['sbom', ...args], { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
