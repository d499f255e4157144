CREATE ROLE shop_app LOGIN PASSWORD 'playground-postgres';
CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, total numeric(10, 2) NOT NULL, placed_on date NOT NULL);
INSERT INTO orders SELECT n, 'customer ' || n % 20, n * 7.5, date '2026-01-01' + n FROM generate_series(1, 500) AS n;
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO shop_app;
