import { describe, expect, it } from 'vitest';
import {
  askingServer,
  readAny,
  type SeenStartup,
  type ServerScript,
  welcomeBytes,
  welcomingServer,
} from '../../test/support/postgres-peers.ts';
import { signIn } from '../../test/support/postgres-sign-in.ts';
import { errorResponse } from './errors.ts';
import { message } from './packets.ts';

describe('several hosts', () => {
  const primary = { in_hot_standby: 'off', default_transaction_read_only: 'off' };
  const standby = { in_hot_standby: 'on', default_transaction_read_only: 'off' };
  const readOnly = { in_hot_standby: 'off', default_transaction_read_only: 'on' };
  const down: ServerScript = async (peer) => peer.destroy();
  const later: ServerScript = askingServer(async (peer) =>
    peer.write(errorResponse({ severity: 'FATAL', code: '57P03', message: 'starting up' })),
  );

  it.each([
    ['any', [down, later, welcomingServer()], 2],
    [
      'read-write',
      [welcomingServer([], standby), welcomingServer([], readOnly), welcomingServer([], primary)],
      2,
    ],
    ['read-only', [welcomingServer([], primary), welcomingServer([], readOnly)], 1],
    ['primary', [welcomingServer([], standby), welcomingServer([], readOnly)], 1],
    ['standby', [welcomingServer([], primary), welcomingServer([], standby)], 1],
    ['prefer-standby', [welcomingServer([], primary), welcomingServer([], standby)], 1],
    ['prefer-standby', [down, welcomingServer([], primary)], 1],
  ] as const)('%s finds its server', async (targetSessionAttrs, servers, expected) => {
    const { entry, error } = await signIn({ servers, settings: { targetSessionAttrs } });
    expect(error).toBeNull();
    expect(entry.facts[0]!.server.remote.port - 5432).toBe(expected);
  });

  it('ask a server that does not tell by itself', async () => {
    const old = (answer: string): ServerScript =>
      askingServer(async (peer) => {
        peer.write(welcomeBytes());
        const { type, body } = await readAny(peer);
        expect(type + body.toString()).toBe('QSHOW transaction_read_only\0');
        const length = Buffer.from([0, 1, 0, 0, 0, answer.length]);
        const row = message('D', Buffer.concat([length, Buffer.from(answer)]));
        peer.write(
          Buffer.concat([
            message('T', Buffer.alloc(2)),
            row,
            message('C', Buffer.from('SHOW\0')),
            message('Z', Buffer.from('I')),
          ]),
        );
      });
    const { entry } = await signIn({
      servers: [old('on'), old('off')],
      settings: { targetSessionAttrs: 'read-write' },
    });
    expect(entry.facts[0]!.server.remote.port).toBe(5433);
  });

  it('say so when none will do, and stop at one that says no', async () => {
    const none = await signIn({
      servers: [welcomingServer([], standby)],
      settings: { targetSessionAttrs: 'primary' },
    });
    expect(none.error).toMatchObject({ code: 'server_unreachable' });
    const seen: SeenStartup[] = [];
    const no = await signIn({
      servers: [
        askingServer(async (peer) =>
          peer.write(errorResponse({ severity: 'FATAL', code: '3D000', message: 'none' })),
        ),
        welcomingServer(seen),
      ],
    });
    expect(no.error).toMatchObject({ serverCode: '3D000' });
    expect(seen).toEqual([]);
  });
});
