CREATE USER 'shop_app'@'%' IDENTIFIED BY 'playground-mysql';
CREATE TABLE orders (id int PRIMARY KEY, customer varchar(40) NOT NULL, total decimal(10, 2) NOT NULL, placed_on date NOT NULL);
INSERT INTO orders
WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 500)
SELECT i, CONCAT('customer ', i % 20), i * 7.5, DATE_ADD('2026-01-01', INTERVAL i DAY) FROM n;
GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO 'shop_app'@'%';
