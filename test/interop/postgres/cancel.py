"""Has a statement cancelled by each Python driver's own means.

Reads {"driver", …arguments} objects as a JSON list, and writes a JSON list of {"cancelled", "account"} or {"error"}:
the driver's word for the cancelled statement, and who the connection says it is afterwards.
"""

import asyncio
import json
import ssl
import sys
import threading

SLEEP = "SELECT pg_sleep(60)"
QUERY = "SELECT current_user::text"


def psycopg3(arguments, safe):
    import psycopg

    with psycopg.connect(autocommit=True, **arguments) as connection:
        cancel = connection.cancel_safe if safe else connection.cancel
        timer = threading.Timer(0.4, cancel)
        timer.start()
        try:
            connection.execute(SLEEP)
            cancelled = "ran through"
        except psycopg.Error as error:
            cancelled = error.sqlstate
        timer.join()
        return cancelled, connection.execute(QUERY).fetchone()[0]


def asyncpg(arguments):
    import asyncpg as driver

    async def run():
        ca = arguments.pop("ca", None)
        if ca is not None:
            arguments["ssl"] = ssl.create_default_context(cafile=ca)
        connection = await driver.connect(**arguments)
        try:
            try:
                await connection.execute(SLEEP, timeout=0.4)
                cancelled = "ran through"
            except asyncio.TimeoutError:
                cancelled = "timeout"
            return cancelled, await connection.fetchval(QUERY)
        finally:
            await connection.close()

    return asyncio.run(run())


DRIVERS = {
    "psycopg": lambda arguments: psycopg3(arguments, False),
    "psycopg safe": lambda arguments: psycopg3(arguments, True),
    "asyncpg": asyncpg,
}


def attempt(case):
    try:
        cancelled, account = DRIVERS[case.pop("driver")](case)
        return {"cancelled": cancelled, "account": account}
    except Exception as error:  # every driver has its own kinds
        return {"error": f"{type(error).__name__}: {error}"}


print(json.dumps([attempt(case) for case in json.load(sys.stdin)]))
