import { expect, test } from 'vitest';
import { PREPARED_STATEMENTS_MAX, PREPARED_TEXT_BYTES_MAX } from '../limits.ts';
import { Handles, type Prepared } from './handles.ts';

function prepared(text: string): Prepared {
  return { text, textBytes: text.length, textSha256: null, names: [], layout: null };
}

test('the oldest handles go when there are too many, or their texts are too long', () => {
  const handles = new Handles();
  for (let handle = 1; handle <= PREPARED_STATEMENTS_MAX + 2; handle++)
    handles.remember(handle, prepared('x'));
  expect([handles.find(1), handles.find(2)]).toEqual([null, null]);
  expect(handles.find(3)).not.toBeNull();
  const long = prepared('y'.repeat(PREPARED_TEXT_BYTES_MAX / 4));
  handles.remember(20_001, long);
  handles.remember(20_002, long);
  expect(handles.find(3)).toBeNull();
  expect([handles.find(20_001), handles.find(20_002)]).toEqual([long, long]);
  handles.remember(20_003, long);
  expect([handles.find(20_001), handles.find(20_003)]).toEqual([null, long]);
});

test('a handle that is given out again stands for the new statement', () => {
  const handles = new Handles();
  handles.remember(1, prepared('old'));
  handles.remember(1, prepared('new'));
  expect(handles.find(1)?.text).toBe('new');
  handles.forget(1);
  expect(handles.find(1)).toBeNull();
  expect(handles.find(null)).toBeNull();
});
