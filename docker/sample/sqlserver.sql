IF DB_ID('shop') IS NULL CREATE DATABASE shop;
GO
IF SUSER_ID('shop_app') IS NULL CREATE LOGIN shop_app WITH PASSWORD = 'Playground-sqlserver-1', DEFAULT_DATABASE = shop;
GO
USE shop;
IF USER_ID('shop_app') IS NULL CREATE USER shop_app FOR LOGIN shop_app;
IF OBJECT_ID('orders') IS NULL
BEGIN
  CREATE TABLE orders (id int PRIMARY KEY, customer nvarchar(40) NOT NULL, total decimal(10, 2) NOT NULL, placed_on date NOT NULL);
  INSERT INTO orders
  SELECT TOP 500 ROW_NUMBER() OVER (ORDER BY a.object_id), CONCAT('customer ', ROW_NUMBER() OVER (ORDER BY a.object_id) % 20),
    ROW_NUMBER() OVER (ORDER BY a.object_id) * 7.5, DATEADD(day, ROW_NUMBER() OVER (ORDER BY a.object_id), '2026-01-01')
  FROM sys.all_objects AS a;
END;
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO shop_app;
GO
