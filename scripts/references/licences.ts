import { readFileSync } from 'node:fs';

/** Licences under which what is shipped may be: permissive, without a duty to open what is built with it. */
export const LICENCES_ALLOWED: ReadonlySet<string> = new Set([
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BlueOak-1.0.0',
  'ISC',
  'MIT',
]);

/** A package in `package-lock.json`. */
export interface LockedPackage {
  readonly name: string;
  readonly version: string;
  /** An SPDX expression; null where the package names none. */
  readonly license: string | null;
  readonly integrity: string | null;
  /** A URL where it does not come from the registry by name and version. */
  readonly resolved: string | null;
  readonly hasInstallScript: boolean;
  /** Left out of an installation with --omit=dev. */
  readonly isDevelopment: boolean;
  readonly isOptional: boolean;
}

/** Every package of the lock file in `root` (a folder's URL), by name and version. */
export function lockedPackages(root: URL): LockedPackage[] {
  const lock = JSON.parse(readFileSync(new URL('package-lock.json', root), 'utf8')) as {
    packages: Record<string, Record<string, unknown>>;
  };
  return Object.entries(lock.packages)
    .filter(([path]) => path !== '')
    .map(([path, facts]) => ({
      name: String(facts['name'] ?? path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length)),
      version: String(facts['version']),
      license: typeof facts['license'] === 'string' ? facts['license'] : null,
      integrity: typeof facts['integrity'] === 'string' ? facts['integrity'] : null,
      resolved: typeof facts['resolved'] === 'string' ? facts['resolved'] : null,
      hasInstallScript: facts['hasInstallScript'] === true,
      isDevelopment: facts['dev'] === true || facts['devOptional'] === true,
      isOptional: facts['optional'] === true,
    }))
    .sort((one, other) => compare(one.name, other.name) || compare(one.version, other.version));
}

/** What is installed with the package. */
export function productionPackages(root: URL): LockedPackage[] {
  return lockedPackages(root).filter(({ isDevelopment }) => !isDevelopment);
}

/** THIRD-PARTY.md. */
export function licenceReference(packages: readonly LockedPackage[]): string {
  const counts = new Map<string, number>();
  for (const { license } of packages) counts.set(license ?? 'none', (counts.get(license ?? 'none') ?? 0) + 1);
  const summary = [...counts]
    .sort((one, other) => other[1] - one[1])
    .map(([name, count]) => `${name} ${count}`);
  const rows = packages.map(
    ({ name, version, license, isOptional }) =>
      `| ${name} | ${version} | ${license ?? 'none'} | ${isOptional ? 'optional' : ''} |`,
  );
  return `# Third-party packages

What an installation of Sallyport brings along: ${packages.length} packages (${summary.join(', ')}). Each has its licence text in its own folder below
\`node_modules\`. Made from \`package-lock.json\` by \`npm run generate\`; as a CycloneDX bill of materials: \`npm run sbom\`.

| package | version | licence | |
|---|---|---|---|
${rows.join('\n')}
`;
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
