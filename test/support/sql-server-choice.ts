/** Which SQL Server a run of the tests is on. */

/** Microsoft's own, in the version that most people have. */
export const SQL_SERVER_IMAGE = 'mcr.microsoft.com/mssql/server:2022-latest';

export type SqlServerChoice =
  | { readonly from: 'url'; readonly url: URL }
  | {
      readonly from: 'container';
      readonly image: string;
      /** A container that does not start fails the tests; else they go on with the double, and say so. */
      readonly required: boolean;
      readonly line: string;
    }
  | { readonly from: 'double'; readonly line: string };

const NONE = 'SALLYPORT_TEST_MSSQL_URL=none';

/**
 * Chooses by `SALLYPORT_TEST_MSSQL_URL`: a URL, `docker:IMAGE` or `none`; without it, a container where an engine for
 * them answers, else the test double. Throws for a URL that is none.
 */
export function chooseSqlServer(
  environment: Readonly<Record<string, string | undefined>>,
  engineAnswers: boolean,
): SqlServerChoice {
  const asked = environment['SALLYPORT_TEST_MSSQL_URL'] ?? '';
  if (asked === 'none') {
    return { from: 'double', line: `${NONE}: the SQL Server tests run on the test double alone.` };
  }
  if (asked.startsWith('docker:')) return container(asked.slice('docker:'.length), true);
  if (asked !== '') return { from: 'url', url: urlOf(asked) };
  const insists = environment['SALLYPORT_TEST_CONTAINERS'] === '1';
  if (engineAnswers || insists) {
    const ci = environment['CI'] ?? '';
    return container(SQL_SERVER_IMAGE, insists || (ci !== '' && ci !== 'false'));
  }
  return {
    from: 'double',
    line: 'No container engine answers and SALLYPORT_TEST_MSSQL_URL names no server: the SQL Server tests run on the test double alone.',
  };
}

function container(image: string, required: boolean): SqlServerChoice {
  const line = `The SQL Server tests run on ${image}, in a container. Whoever runs them accepts Microsoft's licence of its free Developer edition; ${NONE} leaves it out.`;
  return { from: 'container', image, required, line };
}

function urlOf(text: string): URL {
  if (!URL.canParse(text)) {
    throw new Error(
      `SALLYPORT_TEST_MSSQL_URL is neither mssql://USER:PASSWORD@HOST:PORT/DATABASE nor docker:IMAGE nor none`,
    );
  }
  return new URL(text);
}

/** What is said of a container that did not start. */
export function containerFailure(image: string, why: unknown, required: boolean): string {
  const reason = why instanceof Error ? why.message : String(why);
  const failed = `SQL Server (${image}) could not be started in a container: ${reason}`;
  return required
    ? `${failed}. That fails the tests here, for the test double would hide it; ${NONE} runs them on the double alone.`
    : `${failed}. The SQL Server tests go on with the test double alone.`;
}
