import { expect, test } from 'vitest';
import { databasesOpened } from './databases.ts';

test.each([
  ['USE shop', 'mysql', ['shop']],
  ['use `a``b`', 'mysql', ['a`b']],
  ['select 1; USE other', 'mysql', ['other']],
  ['SELECT * FROM t USE INDEX (i)', 'mysql', []],
  ["SELECT 'USE x'", 'mysql', []],
  ['/*! USE hidden */', 'mysql', ['hidden']],
  ['USE [My Db] SELECT 1', 'tds', ['My Db']],
  ['SELECT 1 USE other SELECT 2', 'tds', ['other']],
  ["SELECT * FROM t OPTION (USE HINT ('x'))", 'tds', []],
  ['SELECT [use] FROM t', 'tds', []],
  ['select 1', 'postgres', []],
] as const)('%s (%s)', (text, dialect, expected) => {
  expect(databasesOpened(text, dialect)).toEqual(expected);
});
