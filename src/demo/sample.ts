/** The demo's little shop. Statements end with a semicolon and an empty line, as single-user mode wants them. */
export function sampleSql(account: string): string {
  return [
    `SET ROLE ${account};`,
    'CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL, city text NOT NULL);',
    `INSERT INTO customers VALUES
  (1, 'Ada Okafor', 'ada@example.com', 'Lagos'), (2, 'Bruno Keller', 'bruno@example.com', 'Bern'),
  (3, 'Chiara Russo', 'chiara@example.com', 'Turin'), (4, 'Dilan Yilmaz', 'dilan@example.com', 'Izmir');`,
    `CREATE TABLE orders (
  id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, placed_on date NOT NULL,
  total numeric(10, 2) NOT NULL, status text NOT NULL);`,
    `INSERT INTO orders
SELECT n, 1 + n % 4, date '2026-01-01' + n, round((10 + n * 7.35)::numeric, 2),
  (ARRAY['open', 'paid', 'shipped'])[1 + n % 3]
FROM generate_series(1, 200) AS n;`,
  ].join('\n\n');
}
