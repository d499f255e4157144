import { deadBecause } from '../access/rules.ts';
import { nearest } from './faults.ts';
import { ENGINE_OF_TYPE, resourcesOf } from './resources.ts';
import type { DeclaredNames, Finding } from './rules.ts';
import type { Config, ListenerConfig } from './schema.ts';

type Report = (finding: Finding) => void;

/** Checks what rules and listeners say of each other: names, protocols, and rules that can never fit. */
export function checkAccess(config: Config, names: DeclaredNames, report: Report): void {
  if (config.gateway.peers.length > 0 && config.gateway.peer_secret === undefined)
    report({
      path: ['gateway', 'peers'],
      message: 'needs "peer_secret", by which the gateways know each other',
    });
  const seen = new Map<string, number>();
  config.rules.forEach((rule, index) => {
    if (!rule) return;
    const path = ['rules', index];
    const former = seen.get(rule.name);
    if (former !== undefined)
      report({
        path: [...path, 'name'],
        message: `is the name of rules[${former}] as well`,
        remedy: 'give each rule its own name',
      });
    seen.set(rule.name, index);
    const why = deadBecause(rule, {
      resources: names.resources.map((name) => ({
        name,
        labels: config.resources[name]?.labels ?? {},
        databases: config.resources[name]?.databases ?? null,
      })),
      users: Object.entries(config.users).map(([name, { roles }]) => ({ name, roles })),
      otherRoles:
        config.oidc === undefined && !config.listeners.some((one) => one?.client_auth === 'mtls') ? [] : null,
    });
    if (why !== null) report({ severity: 'warning', path, message: `can never fit: ${why}` });
  });
  const needsRules = config.listeners.some((one) => one && one.client_auth !== 'trust');
  if (needsRules && config.rules.length === 0)
    report({
      severity: 'warning',
      path: ['rules'],
      message: 'is empty, so nobody can get a launch',
      remedy: 'add a rule',
    });
}

/** Checks which resources a listener names. */
export function checkListenerResources(
  listener: ListenerConfig,
  path: readonly PropertyKey[],
  config: Config,
  names: DeclaredNames,
  report: Report,
): void {
  if ((listener.resource === undefined) === (listener.resources === undefined)) {
    report({ path, message: 'needs either "resource" or "resources"' });
    return;
  }
  const wanted = resourcesOf(listener);
  wanted.forEach((name, index) => {
    if (names.resources.includes(name)) return;
    const meant = nearest(name, names.resources);
    report({
      path: listener.resource === undefined ? [...path, 'resources', index] : [...path, 'resource'],
      message: 'is not the name of a resource',
      remedy:
        meant !== null ? `did you mean "${meant}"?` : `resources: ${names.resources.join(', ') || 'none'}`,
    });
  });
  if (listener.resources === undefined) return;
  if (listener.client_auth !== 'token') {
    report({
      path: [...path, 'resources'],
      message: 'needs client_auth: token, since the launch in the user name chooses among them',
    });
  }
  const engines = new Set(
    wanted
      .map((name) => config.resources[name]?.type)
      .filter((type) => type !== undefined)
      .map((type) => ENGINE_OF_TYPE[type]),
  );
  if (engines.size > 1)
    report({
      path: [...path, 'resources'],
      message: 'must all speak one protocol',
      remedy: 'use a listener for each protocol',
    });
}
