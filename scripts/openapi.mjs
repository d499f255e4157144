// Writes what is derived from the schemas of the API: docs/openapi.json.
import { writeFileSync } from 'node:fs';
import { openApiDocument } from '../src/http/openapi.ts';

writeFileSync(new URL('../docs/openapi.json', import.meta.url), await openApiDocument());
