"""Signs in to SQL Server with one Python driver after another.

Reads a JSON list of attempts: `driver`, `port`, `user`, `password`, `database`, and what the driver takes besides in
`options`. Prints a JSON list of `{"ok": true, "value": ...}` or `{"ok": false, "error": ...}`.
"""

import glob
import json
import os
import platform
import sys


def microsoft_driver():
    import mssql_python_odbc

    base = os.path.dirname(mssql_python_odbc.__file__)
    pattern = f"{base}/libs/linux/debian_ubuntu/{platform.machine()}/lib/libmsodbcsql*.so*"
    return sorted(glob.glob(pattern))[0]


def freetds_driver():
    return sorted(glob.glob("/usr/lib/*/odbc/libtdsodbc.so"))[0]


def connect_pytds(attempt):
    import pytds

    return pytds.connect(
        dsn="127.0.0.1",
        port=attempt["port"],
        user=attempt["user"],
        password=attempt["password"],
        database=attempt["database"],
        login_timeout=attempt.get("timeout", 15),
        **attempt.get("options", {}),
    )


def connect_pymssql(attempt):
    import pymssql

    return pymssql.connect(
        server="127.0.0.1",
        port=str(attempt["port"]),
        user=attempt["user"],
        password=attempt["password"],
        database=attempt["database"],
        login_timeout=15,
        **attempt.get("options", {}),
    )


def microsoft_string(attempt):
    parts = {
        "Server": f"127.0.0.1,{attempt['port']}",
        "Database": attempt["database"],
        "UID": attempt["user"],
        "PWD": attempt["password"],
        **attempt.get("options", {}),
    }
    return ";".join(f"{key}={value}" for key, value in parts.items())


def connect_mssql_python(attempt):
    import mssql_python

    mssql_python.pooling(enabled=False)
    return mssql_python.connect(microsoft_string(attempt))


def connect_pyodbc(attempt):
    import pyodbc

    pyodbc.pooling = False
    return pyodbc.connect(f"Driver={{{microsoft_driver()}}};{microsoft_string(attempt)}", timeout=15)


def connect_freetds_odbc(attempt):
    import pyodbc

    pyodbc.pooling = False
    parts = {
        "Driver": f"{{{freetds_driver()}}}",
        "Server": "127.0.0.1",
        "Port": attempt["port"],
        "UID": attempt["user"],
        "PWD": attempt["password"],
        "Database": attempt["database"],
        **attempt.get("options", {}),
    }
    return pyodbc.connect(";".join(f"{key}={value}" for key, value in parts.items()), timeout=15)


CONNECT = {
    "pytds": connect_pytds,
    "pymssql": connect_pymssql,
    "mssql-python": connect_mssql_python,
    "pyodbc": connect_pyodbc,
    "freetds-odbc": connect_freetds_odbc,
}


def first_value(connection, statement):
    cursor = connection.cursor()
    cursor.execute(statement)
    return str(cursor.fetchone()[0])


def interleaved(connection):
    """Two results of one connection read in turns: what MARS is for."""
    first, second = connection.cursor(), connection.cursor()
    first.execute(
        "SELECT TOP (300) ROW_NUMBER() OVER (ORDER BY (SELECT NULL)) AS n, REPLICATE('x', 400) AS filler"
        " FROM sys.all_objects AS a CROSS JOIN sys.all_objects AS b"
    )
    head = first.fetchone()[0]
    second.execute("SELECT 7 AS seven")
    seven = second.fetchone()[0]
    return f"{head} {seven} {len(first.fetchall())}"


def run(attempt):
    try:
        connection = CONNECT[attempt["driver"]](attempt)
        try:
            if attempt.get("interleave"):
                value = interleaved(connection)
            else:
                value = first_value(connection, attempt.get("statement", "SELECT 42 AS answer"))
        finally:
            connection.close()
        return {"ok": True, "value": value}
    except Exception as error:
        return {"ok": False, "error": str(error)}


print(json.dumps([run(attempt) for attempt in json.load(sys.stdin)]))
