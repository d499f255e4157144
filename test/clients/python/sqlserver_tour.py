"""A tour through a SQL Server driver: sqlserver_tour.py DRIVER HOST PORT USER PASSWORD DATABASE [ENCRYPT].

Prints one line a step, the same for every way to the server. Each run makes its own tables and drops them.
"""

import datetime
import decimal
import io
import json
import os
import sys
import threading
import time
import uuid

DRIVER, HOST, PORT, USER, PASSWORD, DATABASE = sys.argv[1:7]
PORT = int(PORT)
ENCRYPT = sys.argv[7] if len(sys.argv) > 7 else 'no'
GUID = uuid.UUID('6F9619FF-8B86-D011-B42D-00C04FC964FF')
# pyodbc asks the server how long a text may be, and the test double does not say.
LONG = 200 if DRIVER == 'pyodbc' else 4000 if DRIVER == 'freetds-odbc' else 30000
MOMENT = datetime.datetime(2024, 2, 29, 13, 14, 15, 678000)


def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return '0x' + bytes(value).hex()
    return str(value)


def show(step, value):
    print(step, json.dumps(value, default=plain, ensure_ascii=False), flush=True)


def rows(cursor):
    return [list(row) for row in cursor.fetchall()]


def results(cursor):
    found = []
    while True:
        if cursor.description:
            found.append(rows(cursor))
        if not cursor.nextset():
            return found


def number_of(error):
    for value in getattr(error, 'args', ()):
        if isinstance(value, int):
            return value
        if isinstance(value, (bytes, str)) and b'(' in (value if isinstance(value, bytes) else value.encode()):
            text = value if isinstance(value, str) else value.decode()
            digits = [part.split(')')[0] for part in text.split('(')[1:] if part.split(')')[0].lstrip('-').isdigit()]
            if digits:
                return int(digits[0])
    return getattr(error, 'msg_no', None) or type(error).__name__


def common_tour(connection, mark, prefix):
    """What every DB-API driver does; `mark` is its placeholder for the n-th parameter."""
    table = f'tour_{prefix}'
    cursor = connection.cursor()
    cursor.execute(f'DROP TABLE IF EXISTS {table}')
    cursor.execute(f'CREATE TABLE {table} (id int NOT NULL PRIMARY KEY, n nvarchar(40), d decimal(18,4))')
    connection.commit()
    cursor.execute(f"INSERT INTO {table} (id, n, d) VALUES (1, N'été ☃ 😀', 1.5), (2, NULL, NULL)")
    show('inserted', cursor.rowcount)
    cursor.execute(f'INSERT INTO {table} (id, n, d) VALUES ({mark}, {mark}, {mark})', (3, "it's ü", decimal.Decimal('12345.6789')))
    cursor.executemany(f'INSERT INTO {table} (id, n) VALUES ({mark}, {mark})', [(n, f'n{n}') for n in range(10, 16)])
    connection.commit()
    cursor.execute(f'SELECT id, n, d FROM {table} WHERE id < 10 ORDER BY id')
    show('rows', rows(cursor))
    cursor.execute(f'UPDATE {table} SET n = {mark} WHERE id >= {mark}', ('x', 10))
    show('updated', cursor.rowcount)
    connection.rollback()
    cursor.execute(f"SELECT COUNT(*) FROM {table} WHERE n = N'x'")
    show('rolled back', rows(cursor))
    try:
        cursor.execute(f'INSERT INTO {table} (id) VALUES (1)')
        show('duplicate', 'no error')
    except Exception as error:  # noqa: BLE001
        show('duplicate', number_of(error))
    connection.rollback()
    try:
        cursor.execute('SELECT * FROM no_such_table')
        show('missing', 'no error')
    except Exception as error:  # noqa: BLE001
        show('missing', number_of(error))
    connection.rollback()
    cursor.execute("SELECT 1 AS a; SELECT 2 AS b, N'zwei' AS c UNION ALL SELECT 3, N'drei'")
    show('results', results(cursor))
    cursor.execute(f'SELECT {mark} AS v', ('é' * LONG,))
    show('long', len(cursor.fetchone()[0]))
    cursor.execute('SELECT TOP 20000 1 AS a, N\'some text\' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b')
    show('many', len(cursor.fetchall()))
    cursor.execute(f'DROP TABLE {table}')
    connection.commit()
    return cursor


def procedure(connection, cursor, prefix):
    name = f'tour_out_{prefix}'
    cursor.execute(f'DROP PROCEDURE IF EXISTS {name}')
    cursor.execute(f'CREATE PROCEDURE {name} @a int, @o int OUTPUT AS SELECT @a AS a; SET @o = @a * 2; RETURN 5')
    connection.commit()
    return name


def pymssql_tour():
    import pymssql

    connection = pymssql.connect(server=HOST, port=str(PORT), user=USER, password=PASSWORD, database=DATABASE, appname='tour', encryption='off')
    cursor = common_tour(connection, '%s', 'pymssql')
    name = procedure(connection, cursor, 'pymssql')
    result = cursor.callproc(name, (21, pymssql.output(int)))
    show('procedure', [rows(cursor), list(result)])
    cursor.execute(f'DROP PROCEDURE {name}')
    connection.commit()
    connection.close()


def pytds_tour():
    import pytds

    connection = pytds.connect(dsn=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, appname='tour')
    cursor = common_tour(connection, '%s', 'pytds')
    values = (True, 2**40, 3.25, decimal.Decimal('-7.125'), pytds.Binary(b'\x00\xff'), GUID, MOMENT.date(), MOMENT.time(), MOMENT, 'ü', None)
    cursor.execute('SELECT ' + ', '.join(['%s'] * len(values)), values)
    show('types', rows(cursor))
    name = procedure(connection, cursor, 'pytds')
    result = cursor.callproc(name, (21, pytds.output(param_type='int')))
    show('procedure', [rows(cursor), result[0], cursor.get_proc_return_status()])
    cursor.execute(f'DROP PROCEDURE {name}')
    cursor.execute('DROP TABLE IF EXISTS tour_bulk_pytds')
    cursor.execute('CREATE TABLE tour_bulk_pytds (a int NOT NULL, s nvarchar(30))')
    connection.commit()
    columns = [pytds.Column('a', type=pytds.tds_types.IntType()), pytds.Column('s', type=pytds.tds_types.NVarCharType(30))]
    cursor.copy_to(data=[(n, f'row {n}') for n in range(60)], table_or_view='tour_bulk_pytds', columns=columns)
    cursor.execute('SELECT COUNT(*) FROM tour_bulk_pytds')
    show('bulk', rows(cursor))
    cursor.execute('DROP TABLE tour_bulk_pytds')
    connection.commit()
    cursor.execute('SELECT TOP 200000 1 AS a, N\'some text\' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b')
    cursor.fetchone()
    cursor.cancel()
    cursor.execute('SELECT 7')
    show('after cancel', rows(cursor))
    connection.close()


def pytds_mars_tour():
    import pytds

    connection = pytds.connect(dsn=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, use_mars=True)
    show('mars', connection.mars_enabled)
    first = connection.cursor()
    second = connection.cursor()
    first.execute('SELECT TOP 5000 1 AS a, N\'some text\' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b')
    seen = [first.fetchone()]
    second.execute('SELECT %s AS b', ('inner',))
    show('inner', rows(second))
    second.execute('SELECT %s AS b', ('é' * 20000,))
    show('long', len(second.fetchone()[0]))
    show('outer', len(seen) + len(first.fetchall()))
    first.close()
    second.close()
    connection.close()


def pytds_mars_refused_tour():
    import pytds

    connection = pytds.connect(dsn=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, use_mars=True)
    first = connection.cursor()
    second = connection.cursor()
    first.execute('SELECT TOP 5000 1 AS a, N\'some text\' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b')
    first.fetchone()
    for padding in (0, 30000):
        try:
            second.execute('ALTER LOGIN somebody ENABLE --' + 'x' * padding)
            show('refused', 'no error')
        except Exception as error:  # noqa: BLE001
            show('refused', str(error))
        second.execute('SELECT %s AS b', ('after',))
        show('after', rows(second))
    show('outer', 1 + len(first.fetchall()))
    connection.close()


def odbc_tour(connect, prefix):
    connection = connect()
    cursor = common_tour(connection, '?', prefix)
    cursor.execute('SELECT ? AS a, ? AS b', (1, 'one'))
    first = rows(cursor)
    cursor.execute('SELECT ? AS a, ? AS b', (2, 'two'))
    show('prepared twice', [first, rows(cursor)])
    name = procedure(connection, cursor, prefix)
    cursor.execute(f'{{CALL {name} (?, ?)}}', (21, 0))
    show('procedure', results(cursor))
    cursor.execute(f'DROP PROCEDURE {name}')
    connection.commit()
    if hasattr(cursor, 'cancel'):
        timer = threading.Timer(0.2, cursor.cancel)
        timer.start()
        began = time.monotonic()
        try:
            cursor.execute("WAITFOR DELAY '00:00:20'")
            show('cancelled', 'no error')
        except Exception:  # noqa: BLE001
            show('cancelled', time.monotonic() - began < 10)
        cursor = connection.cursor()
        cursor.execute('SELECT 7')
        show('after cancel', rows(cursor))
    return connection, cursor


def odbc_types(cursor):
    values = (True, 2**40, 3.25, decimal.Decimal('-7.125'), b'\x00\xff', GUID, MOMENT.date(), MOMENT, 'ü', None)
    cursor.execute('SELECT ' + ', '.join(['?'] * len(values)), values)
    show('types', rows(cursor))


def microsoft_driver():
    """The driver that mssql-python brings along."""
    import mssql_python

    base = os.path.dirname(mssql_python.__file__)
    candidates = [base]
    try:
        import mssql_python_odbc

        candidates.append(os.path.dirname(mssql_python_odbc.__file__))
    except ImportError:
        pass
    for folder in candidates:
        for place, _folders, files in os.walk(folder):
            if 'debian_ubuntu' in place and 'x86_64' in place:
                for file in files:
                    if file.startswith('libmsodbcsql-18'):
                        return os.path.join(place, file)
    raise SystemExit('no driver of Microsoft in mssql-python')


def pyodbc_tour():
    import pyodbc

    pyodbc.pooling = False
    driver = microsoft_driver()
    text = f'Driver={driver};Server={HOST},{PORT};Uid={USER};Pwd={PASSWORD};Database={DATABASE};Encrypt={ENCRYPT};TrustServerCertificate=yes;App=tour'
    connection, cursor = odbc_tour(lambda: pyodbc.connect(text), 'pyodbc')
    odbc_types(cursor)
    connection.commit()
    connection.close()
    both = pyodbc.connect(text + ';MARS_Connection=yes')
    first = both.cursor()
    first.execute('SELECT TOP 5000 1 AS a, N\'some text\' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b')
    seen = 1 if first.fetchone() else 0
    second = both.cursor()
    try:
        second.execute('SELECT ? AS b', ('inner',))
        show('two at once', [rows(second), seen + len(first.fetchall())])
    except pyodbc.Error as error:
        show('two at once', error.args[0])
    both.close()


def freetds_odbc_tour():
    import pyodbc

    pyodbc.pooling = False
    text = f'Driver=/usr/lib/x86_64-linux-gnu/odbc/libtdsodbc.so;Server={HOST};Port={PORT};Uid={USER};Pwd={PASSWORD};Database={DATABASE};TDS_Version=7.4;Encryption=off;ClientCharset=UTF-8'
    connection, _cursor = odbc_tour(lambda: pyodbc.connect(text), 'freetds')
    connection.close()


def mssql_python_tour():
    import mssql_python

    text = f'Server={HOST},{PORT};Uid={USER};Pwd={PASSWORD};Database={DATABASE};Encrypt={ENCRYPT};TrustServerCertificate=yes'

    def connect():
        connection = mssql_python.connect(text)
        connection.autocommit = False
        return connection

    connection, cursor = odbc_tour(connect, 'mssqlpython')
    odbc_types(cursor)
    connection.commit()
    connection.close()


TOURS = {
    'pymssql': pymssql_tour,
    'pytds': pytds_tour,
    'pytds-mars': pytds_mars_tour,
    'pytds-mars-refused': pytds_mars_refused_tour,
    'pyodbc': pyodbc_tour,
    'freetds-odbc': freetds_odbc_tour,
    'mssql-python': mssql_python_tour,
}
TOURS[DRIVER]()
