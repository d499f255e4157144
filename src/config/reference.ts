import { configJsonSchema, discriminatorOf, type SchemaNode } from './json-schema.ts';

/** `docs/configuration.md`: every key of the configuration with its type, default and meaning. */
export function configReference(): string {
  const schema = configJsonSchema();
  const lines = [
    '# Configuration',
    '',
    '<!-- Written by `npm run schema` from src/config/schema.ts. Edit that file. -->',
    '',
    'One YAML file. `sallyport check --config FILE` tells every fault in it at once; unknown keys are faults.',
    'Relative paths begin at the folder of the file. Environment variables are not expanded: what is secret is fetched',
    'by reference (`env:NAME` among others), and the rest stays readable. `config.example.yaml` is a whole file to start',
    'from; with the line `# yaml-language-server: $schema=./config.schema.json` on top, editors complete and check it.',
    '',
    'Durations are a whole number and a unit: `500ms`, `30s`, `5m`, `8h`, `1d`. Addresses to listen on are `HOST:PORT`',
    'or `unix:/path/to.sock`. A reference to a secret is `PROVIDER:PATH[#FIELD]`, the provider being a name under',
    '`secrets`.',
  ];
  for (const [name, node] of Object.entries(schema.properties ?? {})) lines.push('', ...section(name, node));
  return `${lines.join('\n')}\n`;
}

function section(name: string, node: SchemaNode): string[] {
  const entry = entryOf(node);
  const [prefix, item] =
    entry === null ? [name, node] : node.type === 'array' ? [`${name}[]`, entry] : [`${name}.NAME`, entry];
  const lines = [`## ${name}`];
  if (node.description) lines.push('', node.description);
  const forms = item.oneOf ?? [item];
  if (forms.length === 1) return [...lines, '', ...table(prefix, forms[0]!)];
  const shared = sharedKeys(forms);
  const types = forms.map((form) => `\`${String(form.properties?.['type']?.const)}\``).join(' ');
  lines.push('', 'For every type:', '', '| key | value | default | meaning |', '|---|---|---|---|');
  lines.push(`| \`${prefix}.type\` | ${types} | required | Which of the kinds below it is. |`);
  lines.push(...rows(prefix, forms[0]!, (key) => key !== 'type' && shared.has(key)));
  for (const form of forms) {
    const type = String(form.properties?.['type']?.const);
    lines.push('', `### ${prefix}, type \`${type}\``, '');
    if (form.description) lines.push(form.description, '');
    const own = table(prefix, form, (key) => !shared.has(key));
    lines.push(...(own.length > 2 ? own : ['No further keys.']));
  }
  return lines;
}

/** Keys that mean the same in every form. */
function sharedKeys(forms: readonly SchemaNode[]): ReadonlySet<string> {
  const shared = new Set(['type']);
  for (const [key, node] of Object.entries(forms[0]!.properties ?? {})) {
    const text = JSON.stringify(node);
    if (forms.every((form) => JSON.stringify(form.properties?.[key]) === text)) shared.add(key);
  }
  return shared;
}

function table(prefix: string, node: SchemaNode, include: (key: string) => boolean = () => true): string[] {
  return ['| key | value | default | meaning |', '|---|---|---|---|', ...rows(prefix, node, include)];
}

function rows(prefix: string, node: SchemaNode, include: (key: string) => boolean): string[] {
  const lines: string[] = [];
  for (const [key, child] of Object.entries(node.properties ?? {})) {
    if (!include(key)) continue;
    const path = `${prefix}.${key}`;
    const block = blockOf(child);
    const required = (node.required ?? []).includes(key) ? 'required' : '';
    const fallback = block !== null && block === child ? '' : defaultText(child);
    const cells = [`\`${path}\``, typeText(child), required || fallback, cell(child.description ?? '')];
    lines.push(`| ${cells.join(' | ')} |`);
    if (child.oneOf && child.oneOf.length > 1) lines.push(...formRows(path, child.oneOf));
    else if (block !== null) lines.push(...rows(path, block, () => true));
  }
  return lines;
}

/** Rows of a block that has several forms: which one each key belongs to stands before its meaning. */
function formRows(path: string, forms: readonly SchemaNode[]): string[] {
  const discriminator = discriminatorOf(forms[0]!) ?? 'type';
  const value = (form: SchemaNode): string => `\`${String(form.properties?.[discriminator]?.const)}\``;
  const lines = [`| \`${path}.${discriminator}\` | ${forms.map(value).join(' ')} | required |  |`];
  for (const form of forms) {
    const { [discriminator]: _, ...properties } = form.properties ?? {};
    for (const row of rows(path, { ...form, properties }, () => true))
      lines.push(row.replace(/\| ([^|]*) \|$/, `| (${value(form)}) $1 |`));
  }
  return lines;
}

/** The block of keys that a value is or may be, or null. */
function blockOf(node: SchemaNode): SchemaNode | null {
  if (node.properties) return node;
  return (node.anyOf ?? node.oneOf)?.find((form) => form.properties) ?? null;
}

/** What the entries of a list or of a map of names look like; null for anything else. */
function entryOf(node: SchemaNode): SchemaNode | null {
  if (node.items) return node.items;
  return typeof node.additionalProperties === 'object' ? node.additionalProperties : null;
}

function typeText(node: SchemaNode): string {
  if (node.const !== undefined) return `\`${String(node.const)}\``;
  if (node.enum) return node.enum.map((value) => `\`${String(value)}\``).join(' ');
  const forms = node.anyOf ?? node.oneOf;
  if (forms) {
    if (forms.some((form) => isDuration(form))) return 'duration';
    return [...new Set(forms.map(typeText))].join(' or ');
  }
  if (node.items) return `list of ${typeText(node.items)}`;
  if (node.type === 'object') return node.properties ? 'block' : 'map of text';
  if (node.type === 'integer') return 'whole number';
  if (node.type === 'boolean') return '`true` `false`';
  return node.type === 'string' ? 'text' : (node.type ?? 'any');
}

function isDuration(node: SchemaNode): boolean {
  return (node as { pattern?: string }).pattern?.includes('ms|s|m|h|d') ?? false;
}

function defaultText(node: SchemaNode): string {
  const fallback = node.default;
  if (fallback === undefined) return '';
  if (typeof fallback === 'object') return `\`${JSON.stringify(fallback)}\``;
  return `\`${String(fallback)}\``;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}
