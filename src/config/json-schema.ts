import { z } from 'zod';
import { configSchema } from './schema.ts';

/** As much of JSON Schema as the configuration's own schema uses. */
export interface SchemaNode {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, SchemaNode>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | SchemaNode;
  readonly propertyNames?: SchemaNode;
  readonly items?: SchemaNode;
  readonly anyOf?: readonly SchemaNode[];
  readonly oneOf?: readonly SchemaNode[];
}

/** The JSON Schema (draft 7) of what people write: for editors, and for finding the key that somebody meant. */
export function configJsonSchema(): SchemaNode {
  const schema = z.toJSONSchema(configSchema, { io: 'input', target: 'draft-7' });
  return { title: 'Sallyport configuration', ...schema } as SchemaNode;
}

/**
 * The keys that are known at `path`, for the value that stands there. Where several forms are possible, `type` of the
 * value chooses, as it does in the schema; without it all forms count.
 */
export function knownKeys(root: SchemaNode, document: unknown, path: readonly PropertyKey[]): string[] {
  const nodes = nodesAt(root, document, path);
  return [...new Set(nodes.flatMap((node) => Object.keys(node.properties ?? {})))];
}

/** Keys of the blocks that are known at `path`, as `block.key`: for a key that stands one level too high. */
export function keysBelow(root: SchemaNode, document: unknown, path: readonly PropertyKey[]): string[] {
  const found = new Set<string>();
  for (const node of nodesAt(root, document, path)) {
    for (const [block, child] of Object.entries(node.properties ?? {}))
      for (const form of alternatives(child, undefined))
        for (const key of Object.keys(form.properties ?? {})) found.add(`${block}.${key}`);
  }
  return [...found];
}

/** The forms that stand at `path`, for the value that is there. */
function nodesAt(root: SchemaNode, document: unknown, path: readonly PropertyKey[]): SchemaNode[] {
  let nodes: SchemaNode[] = alternatives(root, document);
  let value = document;
  for (const part of path) {
    value = isObject(value) ? (value as Record<PropertyKey, unknown>)[part] : undefined;
    const next: SchemaNode[] = [];
    for (const node of nodes) {
      const child =
        typeof part === 'number'
          ? node.items
          : (property(node, String(part)) ?? schemaOf(node.additionalProperties));
      if (child) next.push(...alternatives(child, value));
    }
    nodes = next;
  }
  return nodes;
}

/** The forms that `node` allows for `value`. */
export function alternatives(node: SchemaNode, value: unknown): SchemaNode[] {
  const options = node.oneOf ?? node.anyOf;
  if (!options) return [node];
  const fields = isObject(value) ? (value as Record<string, unknown>) : {};
  const chosen = options.filter((option) => {
    const discriminator = discriminatorOf(option);
    return discriminator !== null && option.properties?.[discriminator]?.const === fields[discriminator];
  });
  return chosen.length > 0 ? chosen : options.flatMap((option) => alternatives(option, value));
}

/** The key whose value tells this form from the others, or null. */
export function discriminatorOf(form: SchemaNode): string | null {
  return ['type', 'method'].find((key) => form.properties?.[key]?.const !== undefined) ?? null;
}

function property(node: SchemaNode, key: string): SchemaNode | undefined {
  return node.properties && Object.hasOwn(node.properties, key) ? node.properties[key] : undefined;
}

function schemaOf(node: boolean | SchemaNode | undefined): SchemaNode | undefined {
  return typeof node === 'object' ? node : undefined;
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
