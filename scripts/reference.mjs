// Writes what is derived from the code's own tables: docs/metrics.md, docs/errors.md and THIRD-PARTY.md.
import { writeFileSync } from 'node:fs';
import { Metrics } from '../src/metrics.ts';
import { errorsReference } from './references/errors.ts';
import { licenceReference, productionPackages } from './references/licences.ts';
import { metricsReference } from './references/metrics.ts';

const root = new URL('../', import.meta.url);
writeFileSync(new URL('docs/metrics.md', root), metricsReference(new Metrics()));
writeFileSync(new URL('docs/errors.md', root), errorsReference());
writeFileSync(new URL('THIRD-PARTY.md', root), licenceReference(productionPackages(root)));
