"""A tour through a PostgreSQL driver: postgres_tour.py DRIVER HOST PORT USER PASSWORD DATABASE.

Prints one line a step, the same for every way to the server. Each run makes its own tables and drops them.
"""

import asyncio
import datetime
import decimal
import io
import ipaddress
import json
import sys
import uuid

DRIVER, HOST, PORT, USER, PASSWORD, DATABASE = sys.argv[1:7]
PORT = int(PORT)
PASSWORD = None if PASSWORD == '-' else PASSWORD


def show(step, value):
    print(step, json.dumps(value, default=str, ensure_ascii=False), flush=True)


def psycopg2_tour():
    import psycopg2
    import psycopg2.extras

    connection = psycopg2.connect(host=HOST, port=PORT, user=USER, password=PASSWORD, dbname=DATABASE)
    cursor = connection.cursor()
    cursor.execute('drop table if exists tour2')
    cursor.execute('create table tour2 (id int primary key, name text, data bytea)')
    cursor.execute('insert into tour2 values (%s, %s, %s)', (1, "O'Neill \\ ü", b'\x00\x01'))
    cursor.executemany('insert into tour2 (id, name) values (%s, %s)', [(n, f'n{n}') for n in range(2, 12)])
    show('affected', cursor.rowcount)
    psycopg2.extras.execute_values(cursor, 'insert into tour2 (id, name) values %s', [(20, 'a'), (21, None)])
    connection.commit()
    cursor.execute('select id, name, data is null from tour2 order by id limit 3')
    show('rows', cursor.fetchall())
    try:
        cursor.execute('select 1/0')
    except psycopg2.Error as error:
        show('error', error.pgcode)
    try:
        cursor.execute('select 1')
    except psycopg2.Error as error:
        show('aborted', error.pgcode)
    connection.rollback()
    with connection.cursor(name='served') as served:
        served.itersize = 4
        served.execute('select id from tour2 order by id')
        show('server cursor', [row[0] for row in served])
    connection.commit()
    cursor.copy_expert('copy tour2 (id, name) from stdin', io.StringIO('100\tx\n101\t\\N\n'))
    show('copied in', cursor.rowcount)
    out = io.StringIO()
    cursor.copy_expert('copy (select id, name from tour2 where id >= 100 order by id) to stdout csv', out)
    show('copied out', out.getvalue())
    try:
        cursor.copy_expert('copy tour2 (id) from stdin', io.StringIO('not a number\n'))
    except psycopg2.Error as error:
        show('copy error', error.pgcode)
    connection.rollback()
    large = connection.lobject(0, 'wb')
    large.write(b'large' * 10000)
    large.close()
    large = connection.lobject(large.oid, 'rb')
    show('large object', len(large.read()))
    large.unlink()
    connection.commit()
    connection.set_session(autocommit=True)
    cursor.execute('listen tour; notify tour, \'hi\'')
    connection.poll()
    show('notified', [(n.channel, n.payload) for n in connection.notifies])
    cursor.execute("do $$ begin raise notice 'noted'; end $$")
    show('notices', connection.notices)
    cursor.callproc('lower', ['ABC'])
    show('called', cursor.fetchone())
    cursor.execute('drop table tour2')
    connection.close()


def psycopg3_tour():
    import psycopg

    with psycopg.connect(host=HOST, port=PORT, user=USER, password=PASSWORD, dbname=DATABASE) as connection:
        cursor = connection.cursor()
        cursor.execute('drop table if exists tour3')
        cursor.execute('create table tour3 (id int primary key, name text, data jsonb)')
        cursor.execute('insert into tour3 values (%s, %s, %s)', (1, 'ü', psycopg.types.json.Jsonb({'a': [1, None]})))
        cursor.executemany('insert into tour3 (id, name) values (%s, %s)', [(n, f'n{n}') for n in range(2, 12)])
        show('affected', cursor.rowcount)
        connection.commit()
        for number in range(8):
            cursor.execute('select name from tour3 where id = %s', (number,))
        show('prepared by itself', cursor.fetchone())
        cursor.execute('select %s::int + 1', (41,), prepare=True)
        show('prepared', cursor.fetchone())
        cursor.execute('select %b::int, %b::text, %t::text, %b::bytea', (7, 'binary', 'text', b'\xff'), binary=True)
        show('binary', [str(value) for value in cursor.fetchone()])
        connection.commit()
        try:
            with connection.pipeline():
                cursor.execute('insert into tour3 (id) values (50)')
                connection.execute('select 1/0')
                connection.execute('insert into tour3 (id) values (51)')
        except psycopg.Error as error:
            show('pipeline', error.sqlstate)
        connection.rollback()
        with connection.pipeline():
            first = connection.execute('select 1')
            second = connection.execute('select %s::text', ('two',))
            third = connection.execute('select count(*) from tour3')
            show('pipelined', [first.fetchone(), second.fetchone(), third.fetchone()])
        connection.commit()
        with connection.cursor(name='served') as served:
            served.itersize = 4
            served.execute('select id from tour3 order by id')
            show('server cursor', [row[0] for row in served])
        with cursor.copy('copy tour3 (id, name) from stdin') as copy:
            copy.write_row((100, 'x'))
            copy.write_row((101, None))
        show('copied in', cursor.rowcount)
        with cursor.copy('copy tour3 (id, name) from stdin (format binary)') as copy:
            copy.set_types(['int4', 'text'])
            copy.write_row((102, 'binary'))
        with cursor.copy('copy (select id, name from tour3 where id >= 100 order by id) to stdout') as copy:
            show('copied out', [row for row in copy.rows()])
        try:
            with cursor.copy('copy tour3 (id) from stdin') as copy:
                copy.write('oops\n')
        except psycopg.Error as error:
            show('copy error', error.sqlstate)
        connection.rollback()
        with connection.transaction():
            cursor.execute('insert into tour3 (id) values (200)')
            try:
                with connection.transaction():
                    cursor.execute('insert into tour3 (id) values (200)')
            except psycopg.Error as error:
                show('savepoint', error.sqlstate)
        show('rows', cursor.execute('select count(*) from tour3').fetchone())
        rows = cursor.stream('select generate_series(1, 5)')
        show('streamed', [row[0] for row in rows])
        cursor.execute('drop table tour3')


async def asyncpg_tour():
    import asyncpg

    connection = await asyncpg.connect(
        host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, ssl=False
    )
    await connection.execute('drop table if exists toura')
    await connection.execute('create table toura (id int primary key, name text)')
    await connection.executemany('insert into toura values ($1, $2)', [(n, f'n{n}') for n in range(10)])
    show('rows', [tuple(row) for row in await connection.fetch('select * from toura where id < $1 order by id', 3)])
    values = [
        ('bool', True),
        ('int2', -2),
        ('int4', 2147483647),
        ('int8', 9007199254740993),
        ('float4', 1.5),
        ('float8', 0.1),
        ('numeric', decimal.Decimal('12345.6700')),
        ('text', "ünï 'x'"),
        ('varchar', ''),
        ('bytea', b'\x00\xff'),
        ('bytea', b''),
        ('date', datetime.date(2024, 2, 29)),
        ('time', datetime.time(13, 14, 15, 500000)),
        ('timetz', datetime.time(13, 14, 15, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
        ('timestamp', datetime.datetime(2024, 2, 29, 13, 14, 15)),
        ('timestamptz', datetime.datetime(2024, 2, 29, 13, 14, 15, tzinfo=datetime.timezone.utc)),
        ('interval', datetime.timedelta(days=2, seconds=3, microseconds=5)),
        ('uuid', uuid.UUID('123e4567-e89b-12d3-a456-426614174000')),
        ('inet', ipaddress.ip_interface('10.1.2.3/8')),
        ('cidr', ipaddress.ip_network('2001:db8::/32')),
        ('macaddr', '08:00:2b:01:02:03'),
        ('json', '{"a": 1}'),
        ('jsonb', '{"a": 1}'),
        ('bit(3)', asyncpg.BitString('101')),
        ('varbit', asyncpg.BitString('1')),
        ('int4[]', [1, None, 3]),
        ('int4[]', []),
        ('text[]', [['a', 'b'], ['c', 'd,e']]),
        ('int4range', asyncpg.Range(1, 5)),
        ('numrange', asyncpg.Range(empty=True)),
        ('point', asyncpg.Point(1, 2.5)),
        ('oid', 4711),
        ('text', None),
    ]
    for kind, value in values:
        show(f'cast {kind}', await connection.fetchval(f'select $1::{kind}::text', value))
    try:
        await connection.fetch('select 1/$1::int', 0)
    except asyncpg.PostgresError as error:
        show('error', error.sqlstate)
    statement = await connection.prepare('select $1::int * 2')
    show('prepared', [await statement.fetchval(n) for n in range(4)])
    async with connection.transaction():
        cursor = await connection.cursor('select id from toura order by id')
        show('cursor', [row[0] for row in await cursor.fetch(4)] + [row[0] for row in await cursor.fetch(20)])
    await connection.copy_records_to_table('toura', records=[(100, 'x'), (101, None)])
    out = io.BytesIO()
    await connection.copy_from_query('select * from toura where id >= $1 order by id', 100, output=out)
    show('copied out', out.getvalue().decode())
    try:
        async with connection.transaction():
            await connection.execute('insert into toura values (100)')
    except asyncpg.PostgresError as error:
        show('duplicate', error.sqlstate)
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener('toura', lambda _c, _p, channel, payload: heard.set_result([channel, payload]))
    await connection.execute("notify toura, 'hi'")
    show('notified', await asyncio.wait_for(heard, 10))
    await connection.reset()
    await connection.execute('drop table toura')
    await connection.close()
    pool = await asyncpg.create_pool(
        host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, ssl=False, min_size=2, max_size=4
    )
    show('pool', sorted(await asyncio.gather(*[pool.fetchval('select $1::int', n) for n in range(20)])))
    await pool.close()


def pg8000_tour():
    import pg8000.native

    connection = pg8000.native.Connection(USER, host=HOST, port=PORT, database=DATABASE, password=PASSWORD)
    connection.run('drop table if exists tour8')
    connection.run('create table tour8 (id int, name text)')
    for number in range(3):
        connection.run('insert into tour8 values (:id, :name)', id=number, name=f'n{number}')
    show('rows', connection.run('select * from tour8 order by id'))
    prepared = connection.prepare('select id from tour8 where name = :name')
    show('prepared', [prepared.run(name='n1'), prepared.run(name='n2')])
    connection.run('copy tour8 from stdin', stream=io.StringIO('9\tx\n'))
    out = io.StringIO()
    connection.run('copy tour8 to stdout', stream=out)
    show('copied', out.getvalue())
    connection.run('drop table tour8')
    connection.close()


if DRIVER == 'asyncpg':
    asyncio.run(asyncpg_tour())
else:
    {'psycopg2': psycopg2_tour, 'psycopg': psycopg3_tour, 'pg8000': pg8000_tour}[DRIVER]()
print('done')
