import { defineConfig } from 'vitest/config';

// Two cores and real servers: test files run one after another, in their own processes.
const shared = { pool: 'forks' as const, isolate: true };

export default defineConfig({
  test: {
    maxWorkers: 2,
    projects: [
      {
        test: {
          ...shared,
          name: 'unit',
          include: [
            'protocols/**/*.test.ts',
            'src/**/*.test.ts',
            'test/{contract,golden,fuzz,ship}/**/*.test.ts',
            'test/*.test.ts',
          ],
          testTimeout: 30_000,
        },
      },
      {
        test: {
          ...shared,
          name: 'interop',
          include: ['test/interop/**/*.test.ts'],
          globalSetup: ['test/support/sql-server-run.ts'],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 180_000,
        },
      },
    ],
  },
});
