"""A tour through a Python driver: `tour.py DRIVER PORT`. Prints one line of JSON for each stop; all must be the same
directly and through Sallyport."""

import datetime
import decimal
import json
import os
import sys
import tempfile

driver, port = sys.argv[1], int(sys.argv[2])
options = dict(host="127.0.0.1", port=port, user="app", database="lab")
if driver == "pymysql":
    import pymysql as module
    from pymysql.constants import CLIENT

    connection = module.connect(password="", local_infile=True, client_flag=CLIENT.MULTI_STATEMENTS, charset="utf8mb4", **options)
elif driver == "mysqlclient":
    import MySQLdb as module

    options["db"] = options.pop("database")
    from MySQLdb.constants import CLIENT

    connection = module.connect(
        passwd="", local_infile=1, charset="utf8mb4", client_flag=CLIENT.MULTI_STATEMENTS, **options
    )
else:
    import mysql.connector as module

    connection = module.connect(password="", allow_local_infile=True, use_pure=True, ssl_disabled=True, **options)


def show(label, value):
    print(json.dumps([label, value], default=lambda item: item.hex() if isinstance(item, bytes | bytearray) else str(item)))


def run(sql, parameters=None, **keywords):
    cursor = connection.cursor(**keywords)
    try:
        cursor.execute(sql, parameters)
        rows = cursor.fetchall() if cursor.description else cursor.rowcount
        return [list(row) for row in rows] if isinstance(rows, (list, tuple)) else rows
    except module.Error as error:
        return ["error", error.args[0], str(error.args[-1])]
    finally:
        cursor.close()


show("who", run("SELECT CURRENT_USER(), DATABASE(), VERSION()"))
show("charset", run("SELECT @@character_set_client, @@collation_connection"))
run("CREATE TEMPORARY TABLE tour (i BIGINT, d DECIMAL(20,5), f DOUBLE, s TEXT CHARACTER SET utf8mb4, b BLOB, dt DATETIME(6), t TIME(3), j JSON)")
VALUES = [
    (1, decimal.Decimal("12345.67890"), 1.5, "größer 😀 '\"\\%", b"\x00\xff'\\", datetime.datetime(2026, 1, 2, 3, 4, 5, 678), datetime.timedelta(hours=-5), '{"a": 1}'),
    (-(2**62), None, None, "x" * 70_000, b"", None, None, None),
]
for row in VALUES:
    show("insert", run("INSERT INTO tour VALUES (%s,%s,%s,%s,%s,%s,%s,%s)", row))
show("types", run("SELECT * FROM tour ORDER BY i"))
if driver == "connector":
    for row in VALUES:
        show("prepared insert", run("INSERT INTO tour VALUES (%s,%s,%s,%s,%s,%s,%s,%s)", row, prepared=True))
    show("prepared types", run("SELECT * FROM tour WHERE i < %s ORDER BY i", (10,), prepared=True))
show("error", run("SELECT nosuch FROM tour"))
show("warnings", run("SHOW WARNINGS"))
connection.rollback()
cursor = connection.cursor()
cursor.executemany("INSERT INTO batch (n, s) VALUES (%s, %s)", [(n, f"row {n}") for n in range(50)])
show("batch", cursor.rowcount)
cursor.close()
show("rolled back", [connection.rollback(), run("SELECT COUNT(*) FROM batch")])
show("one row", run("INSERT INTO batch (n, s) VALUES (%s, %s)", (7, "seven")))
connection.commit()
show("committed", run("SELECT n, s FROM batch"))
run("DELETE FROM batch")
connection.commit()
show("many rows", len(run("SELECT a.n, b.n, REPEAT('x', 100) FROM numbers a, numbers b")))

cursor = connection.cursor()
cursor.callproc("two")
if driver == "connector":
    show("procedure", [[list(row) for row in result.fetchall()] for result in cursor.stored_results()])
else:
    results = [[list(row) for row in cursor.fetchall()]]
    while cursor.nextset():
        results.append([list(row) for row in cursor.fetchall()])
    show("procedure", results)
cursor.close()

if driver != "connector":
    cursor = connection.cursor()
    cursor.execute("SELECT 1; SELECT 2, 'b'; DO 3")
    results = [[list(row) for row in cursor.fetchall()]]
    while cursor.nextset():
        results.append([list(row) for row in cursor.fetchall()])
    show("several", results)
    cursor.close()

with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as file:
    file.write("".join(f"{n},file {n}\n" for n in range(3000)))
show("file", run(f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE batch FIELDS TERMINATED BY ',' (n, s)"))
os.unlink(file.name)
connection.rollback()
connection.ping()
if driver == "connector":
    connection.cmd_change_user(username="app", password="", database="other")
    show("changed", run("SELECT CURRENT_USER(), DATABASE(), @x"))
    connection.cmd_reset_connection()
    show("reset", run("SELECT @@autocommit, DATABASE()"))
elif driver == "mysqlclient":
    connection.change_user(user="app", passwd="", db="other")
    show("changed", run("SELECT CURRENT_USER(), DATABASE(), @x"))
connection.close()
