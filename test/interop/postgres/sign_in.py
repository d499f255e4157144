"""Signs in to PostgreSQL with Python drivers.

Reads a JSON list of {"driver", "host", "port", "user", "password", …driver's own arguments} from standard input, and
writes a JSON list of {"account"} or {"error"} in the same order.
"""

import asyncio
import json
import ssl
import sys

QUERY = "SELECT current_user::text"


def psycopg3(arguments):
    import psycopg

    with psycopg.connect(**arguments) as connection:
        return connection.execute(QUERY).fetchone()[0]


def psycopg2(arguments):
    import psycopg2 as driver

    connection = driver.connect(**arguments)
    try:
        with connection.cursor() as cursor:
            cursor.execute(QUERY)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def asyncpg(arguments):
    import asyncpg as driver

    async def run():
        ca = arguments.pop("ca", None)
        if ca is not None:
            arguments["ssl"] = ssl.create_default_context(cafile=ca)
            if arguments.get("direct_tls"):
                # asyncpg leaves a context of the caller's as it is, and servers ask for this name.
                arguments["ssl"].set_alpn_protocols(["postgresql"])
        connection = await driver.connect(**arguments)
        try:
            return await connection.fetchval(QUERY)
        finally:
            await connection.close()

    return asyncio.run(run())


def pg8000(arguments):
    import pg8000.native as driver

    ca = arguments.pop("ca", None)
    if ca is not None:
        arguments["ssl_context"] = ssl.create_default_context(cafile=ca)
    connection = driver.Connection(**arguments)
    try:
        return connection.run(QUERY)[0][0]
    finally:
        connection.close()


DRIVERS = {"psycopg": psycopg3, "psycopg2": psycopg2, "asyncpg": asyncpg, "pg8000": pg8000}


def attempt(case):
    driver = DRIVERS[case.pop("driver")]
    try:
        return {"account": driver(case)}
    except Exception as error:  # every driver has its own kinds
        return {"error": f"{type(error).__name__}: {error}"}


print(json.dumps([attempt(case) for case in json.load(sys.stdin)]))
