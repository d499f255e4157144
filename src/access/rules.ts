import { BlockList, isIP } from 'node:net';
import type { Principal } from './principal.ts';

/**
 * One rule as it stands in the configuration. All that a rule names must fit; what it leaves out fits always. Rules only
 * give: nobody may reach a resource unless one says so, and the first that fits decides on which terms.
 */
export interface Rule {
  readonly name: string;
  readonly users?: readonly string[] | undefined;
  readonly roles?: readonly string[] | undefined;
  /** Names, with `*` for any run of characters. */
  readonly resources?: readonly string[] | undefined;
  readonly labels?: Readonly<Record<string, string | readonly string[]>> | undefined;
  readonly databases?: readonly string[] | undefined;
  readonly days?: readonly Day[] | undefined;
  /** `08:00-18:00`; a range that ends before it begins goes over midnight, and belongs to the day it begins on. */
  readonly hours?: readonly string[] | undefined;
  /** IANA name of the zone that days and hours are meant in. */
  readonly time_zone?: string | undefined;
  /** Source networks, `10.0.0.0/8`, or single addresses. */
  readonly networks?: readonly string[] | undefined;
  /** Milliseconds. */
  readonly max_launch?: number | undefined;
  /** At once, in one launch. */
  readonly max_connections?: number | undefined;
  readonly read_only?: boolean | undefined;
}

export const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
export type Day = (typeof DAYS)[number];

/** What is asked. */
export interface AccessQuestion {
  readonly principal: Principal;
  readonly resource: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  /** Null where none was named yet. */
  readonly database: string | null;
  /** The address that the person comes from; null for a Unix socket, which no network rule fits. */
  readonly address: string | null;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

/** On which terms somebody may. */
export interface Terms {
  readonly rule: string;
  readonly databases: readonly string[] | null;
  readonly maxLaunchMs: number | null;
  readonly maxConnections: number | null;
  readonly readOnly: boolean;
}

export type Decision =
  | { readonly allowed: true; readonly terms: Terms }
  /** For each rule, in order, the first thing that did not fit. */
  | { readonly allowed: false; readonly reasons: readonly { readonly rule: string; readonly why: string }[] };

/** Decides by the first rule that fits. */
export function decide(rules: readonly Rule[], question: AccessQuestion): Decision {
  const reasons: { rule: string; why: string }[] = [];
  for (const rule of rules) {
    const why = misfit(rule, question);
    if (why === null) return { allowed: true, terms: termsOf(rule) };
    reasons.push({ rule: rule.name, why });
  }
  return { allowed: false, reasons };
}

export function termsOf(rule: Rule): Terms {
  return {
    rule: rule.name,
    databases: rule.databases ?? null,
    maxLaunchMs: rule.max_launch ?? null,
    maxConnections: rule.max_connections ?? null,
    readOnly: rule.read_only ?? false,
  };
}

/** What of `rule` does not fit the question, in words; null when all of it does. */
function misfit(rule: Rule, question: AccessQuestion): string | null {
  const { principal, resource } = question;
  if (!fitsPrincipal(rule, principal)) return `it is not for ${principal.name}`;
  if (rule.resources && !rule.resources.some((pattern) => matchesPattern(pattern, resource.name)))
    return `it is not for ${resource.name}`;
  for (const [label, wanted] of Object.entries(rule.labels ?? {})) {
    const value = resource.labels[label];
    if (value === undefined || ![wanted].flat().includes(value))
      return `${resource.name} is not labelled ${label}=${[wanted].flat().join('|')}`;
  }
  if (rule.databases && question.database !== null && !rule.databases.includes(question.database))
    return `it is not for the database ${question.database}`;
  if (rule.networks && !inNetworks(rule.networks, question.address))
    return `${question.address ?? 'a local socket'} is not in its networks`;
  return misfitOfTime(rule, question.at);
}

/** A rule that names nobody is for everybody who could prove who they are. */
function fitsPrincipal(rule: Rule, principal: Principal): boolean {
  if (rule.users === undefined && rule.roles === undefined) return true;
  if (rule.users?.includes(principal.name)) return true;
  return rule.roles?.some((role) => principal.roles.includes(role)) ?? false;
}

/** Whether `name` fits `pattern`, in which `*` stands for any run of characters. */
export function matchesPattern(pattern: string, name: string): boolean {
  const parts = pattern.split('*');
  if (parts.length === 1) return pattern === name;
  const first = parts[0]!;
  const last = parts[parts.length - 1]!;
  if (name.length < first.length + last.length || !name.startsWith(first) || !name.endsWith(last))
    return false;
  let from = first.length;
  for (const part of parts.slice(1, -1)) {
    const at = name.indexOf(part, from);
    if (at < 0 || at + part.length > name.length - last.length) return false;
    from = at + part.length;
  }
  return true;
}

function inNetworks(networks: readonly string[], address: string | null): boolean {
  if (address === null) return false;
  // A dual-stack socket shows IPv4 clients in IPv6 clothes.
  const plain = address.startsWith('::ffff:') && isIP(address.slice(7)) === 4 ? address.slice(7) : address;
  const family = isIP(plain);
  if (family === 0) return false;
  return blockList(networks).check(plain, family === 4 ? 'ipv4' : 'ipv6');
}

const blockLists = new WeakMap<readonly string[], BlockList>();

function blockList(networks: readonly string[]): BlockList {
  let list = blockLists.get(networks);
  if (list === undefined) {
    list = new BlockList();
    for (const network of networks) addNetwork(list, network);
    blockLists.set(networks, list);
  }
  return list;
}

/** Adds `10.0.0.0/8` or a single address. Throws for anything else. */
export function addNetwork(list: BlockList, network: string): void {
  const [address, bits] = network.split('/') as [string, string | undefined];
  const family = isIP(address);
  if (family === 0) throw new Error('is no network; write 10.0.0.0/8 or 192.0.2.7');
  const type = family === 4 ? 'ipv4' : 'ipv6';
  if (bits === undefined) list.addAddress(address, type);
  else list.addSubnet(address, Number(bits), type);
}

function misfitOfTime(rule: Rule, at: number): string | null {
  if (rule.days === undefined && rule.hours === undefined) return null;
  const zone = rule.time_zone ?? 'UTC';
  const { day, minutes } = localTime(at, zone);
  const fitsDay = (one: Day): boolean => rule.days === undefined || rule.days.includes(one);
  if (rule.hours === undefined) return fitsDay(day) ? null : `it is not for ${day} (${zone})`;
  const before = DAYS[(DAYS.indexOf(day) + 6) % 7]!;
  const fits = rule.hours.some((hours) => {
    const { from, to } = parseHours(hours);
    if (from < to) return fitsDay(day) && minutes >= from && minutes < to;
    return (fitsDay(day) && minutes >= from) || (fitsDay(before) && minutes < to);
  });
  const clock = `${String(Math.floor(minutes / 60)).padStart(2, '0')}:${String(minutes % 60).padStart(2, '0')}`;
  return fits ? null : `it is not for ${day} ${clock} (${zone})`;
}

/** `08:00-18:00` in minutes since midnight; `24:00` is the end of the day. Throws for anything else. */
export function parseHours(hours: string): { from: number; to: number } {
  const match = /^([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)$/.exec(hours);
  if (match === null) throw new Error('is no range of hours; write 08:00-18:00');
  const from = Number(match[1]) * 60 + Number(match[2]);
  const to = match[3] === undefined ? 24 * 60 : Number(match[3]) * 60 + Number(match[4]);
  return { from, to };
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** Weekday and minutes since midnight in a zone. Throws `RangeError` for a zone that does not exist. */
function localTime(at: number, timeZone: string): { day: Day; minutes: number } {
  let format = formats.get(timeZone);
  if (format === undefined) {
    format = new Intl.DateTimeFormat('en-GB', {
      timeZone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
    formats.set(timeZone, format);
  }
  const parts = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
  return {
    day: parts['weekday']!.toLowerCase() as Day,
    minutes: Number(parts['hour']) * 60 + Number(parts['minute']),
  };
}

/** What the configuration has for rules to name. */
export interface RuleFacts {
  readonly resources: readonly {
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly databases: readonly string[] | null;
  }[];
  readonly users: readonly { readonly name: string; readonly roles: readonly string[] }[];
  /** Roles that sources outside the configuration may give (OIDC groups); null: unknown, so any. */
  readonly otherRoles: readonly string[] | null;
}

/** Why a rule can never fit anything, in words; null when it can. */
export function deadBecause(rule: Rule, facts: RuleFacts): string | null {
  const { resources, users, otherRoles } = facts;
  const named = resources.filter(
    ({ name }) => rule.resources?.some((pattern) => matchesPattern(pattern, name)) ?? true,
  );
  if (named.length === 0) return 'no resource has such a name';
  const labelled = named.filter(({ labels }) =>
    Object.entries(rule.labels ?? {}).every(([label, wanted]) =>
      [wanted].flat().includes(labels[label] ?? ''),
    ),
  );
  if (labelled.length === 0) return 'no resource that it names has these labels';
  const open = labelled.filter(
    ({ databases }) =>
      databases === null || !rule.databases || rule.databases.some((one) => databases.includes(one)),
  );
  if (open.length === 0) return 'no resource that it names offers these databases';
  const knownRoles = new Set([...users.flatMap(({ roles }) => roles), ...(otherRoles ?? [])]);
  const rolePossible = rule.roles?.some((role) => otherRoles === null || knownRoles.has(role)) ?? false;
  const userPossible =
    rule.users?.some((user) => otherRoles === null || users.some(({ name }) => name === user)) ?? false;
  const anybody = rule.users === undefined && rule.roles === undefined;
  if (!anybody && !rolePossible && !userPossible) return 'nobody has one of its roles or names';
  if (rule.hours?.every((hours) => parseHours(hours).from === parseHours(hours).to))
    return 'its hours are empty';
  if (rule.days?.length === 0) return 'it has no days';
  return null;
}
