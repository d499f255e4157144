import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { configJsonSchema, type SchemaNode } from './json-schema.ts';
import { parseConfig } from './load.ts';
import { configReference } from './reference.ts';

const root = new URL('../../', import.meta.url);
const text = (file: string): string => readFileSync(new URL(file, root), 'utf8');

test('config.schema.json is in step with the schema (npm run schema)', () => {
  expect(JSON.parse(text('config.schema.json'))).toEqual(JSON.parse(JSON.stringify(configJsonSchema())));
});

test('docs/configuration.md is in step with the schema (npm run schema)', () => {
  expect(text('docs/configuration.md')).toBe(configReference());
});

test('config.example.yaml is valid and points editors at the schema', () => {
  const example = text('config.example.yaml');
  expect(example.startsWith('# yaml-language-server: $schema=./config.schema.json\n')).toBe(true);
  expect(parseConfig(example, 'config.example.yaml', { files: false }).warnings).toEqual([]);
});

test('config.example.yaml is valid with every commented key set', () => {
  // A "# key: value" line is a key that is off; other comments are prose.
  const example = text('config.example.yaml').replaceAll(/^( *)# ( *)([a-z_]+:(?: |$))/gm, '$1$2$3');
  const withRecipient = example.replace(
    'age1…',
    'age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p',
  );
  const listed = withRecipient.replace('      token: pass:orders', '      # one of both');
  expect(() => parseConfig(listed, 'config.example.yaml', { files: false })).not.toThrow();
});

test('config.example.yaml shows every key, and every key has a description', () => {
  const example = text('config.example.yaml');
  const missing: string[] = [];
  const undescribed: string[] = [];
  const visit = (node: SchemaNode, path: string): void => {
    for (const [key, child] of Object.entries(node.properties ?? {})) {
      if (!new RegExp(`(^|[\\s{,])${key}:`, 'm').test(example)) missing.push(`${path}.${key}`);
      if (key !== 'type' && key !== 'method' && !child.description && !child.properties && !child.oneOf)
        undescribed.push(`${path}.${key}`);
      visit(child, `${path}.${key}`);
    }
    for (const form of [...(node.oneOf ?? []), ...(node.anyOf ?? [])]) visit(form, path);
    if (node.items) visit(node.items, `${path}[]`);
    if (typeof node.additionalProperties === 'object') visit(node.additionalProperties, `${path}.NAME`);
  };
  visit(configJsonSchema(), '');
  expect({ missing, undescribed }).toEqual({ missing: [], undescribed: [] });
});
