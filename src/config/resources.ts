import type { EngineName } from '../../protocols/engine.ts';
import type { ListenerConfig, ResourceConfig } from './schema.ts';

/** The engine of each resource type. */
export const ENGINE_OF_TYPE = {
  postgres: 'postgres',
  mysql: 'mysql',
  mariadb: 'mysql',
  sqlserver: 'tds',
} as const satisfies Record<ResourceConfig['type'], EngineName>;

/** The names of the resources behind a listener. */
export function resourcesOf(listener: ListenerConfig): readonly string[] {
  return listener.resources ?? (listener.resource === undefined ? [] : [listener.resource]);
}
