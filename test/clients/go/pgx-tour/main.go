// A tour through pgx: pgx-tour URL. Prints one line a step, the same for every way to the server.
//
//	pgx-tour URL STATEMENT     prints what becomes of a statement in several modes, and of one after it
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func main() {
	if len(os.Args) > 2 {
		if err := refused(context.Background(), os.Args[1], os.Args[2]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	if err := tour(context.Background(), os.Args[1]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println("done")
}

func tour(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "drop table if exists tourg"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "create table tourg (id int primary key, name text)"); err != nil {
		return err
	}
	tag, err := conn.Exec(ctx, "insert into tourg values ($1, $2), ($3, $4)", 1, "ü", 2, nil)
	if err != nil {
		return err
	}
	fmt.Println("inserted", tag)
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement,
		pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec,
		pgx.QueryExecModeSimpleProtocol,
	} {
		var name string
		var at time.Time
		row := conn.QueryRow(ctx, "select name, $2::timestamptz from tourg where id = $1", mode, 1, time.Unix(1700000000, 0))
		if err := row.Scan(&name, &at); err != nil {
			return err
		}
		fmt.Println("mode", mode, name, at.Unix())
	}
	batch := &pgx.Batch{}
	for id := 10; id < 15; id++ {
		batch.Queue("insert into tourg values ($1, $2)", id, fmt.Sprint("n", id))
	}
	batch.Queue("select count(*) from tourg")
	results := conn.SendBatch(ctx, batch)
	for range 5 {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	var count int
	if err := results.QueryRow().Scan(&count); err != nil {
		return err
	}
	results.Close()
	fmt.Println("batch", count)
	failing := &pgx.Batch{}
	failing.Queue("insert into tourg values (100)")
	failing.Queue("select 1/0")
	failing.Queue("insert into tourg values (101)")
	err = conn.SendBatch(ctx, failing).Close()
	var failure *pgconn.PgError
	fmt.Println("failing batch", errors.As(err, &failure) && failure.Code == "22012")
	copied, err := conn.CopyFrom(ctx, pgx.Identifier{"tourg"}, []string{"id", "name"},
		pgx.CopyFromRows([][]any{{200, "a"}, {201, nil}}))
	if err != nil {
		return err
	}
	var out strings.Builder
	if _, err := conn.PgConn().CopyTo(ctx, &out, "copy (select * from tourg where id >= 200 order by id) to stdout"); err != nil {
		return err
	}
	fmt.Printf("copied %d %q\n", copied, out.String())
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	large := tx.LargeObjects()
	oid, err := large.Create(ctx, 0)
	if err != nil {
		return err
	}
	object, err := large.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
	if err != nil {
		return err
	}
	written, err := object.Write(make([]byte, 50000))
	if err != nil {
		return err
	}
	fmt.Println("large object", written)
	if err := tx.Rollback(ctx); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "listen tourg"); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "notify tourg, 'hi'"); err != nil {
		return err
	}
	notification, err := conn.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	fmt.Println("notified", notification.Payload, notification.PID == conn.PgConn().PID())
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	sums := make(chan int)
	for n := range 20 {
		go func() {
			var value int
			if err := pool.QueryRow(ctx, "select $1::int", n).Scan(&value); err != nil {
				value = -1000
			}
			sums <- value
		}()
	}
	sum := 0
	for range 20 {
		sum += <-sums
	}
	fmt.Println("pool", sum)
	_, err = conn.Exec(ctx, "drop table tourg")
	return err
}

func refused(ctx context.Context, url, statement string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement,
		pgx.QueryExecModeExec,
		pgx.QueryExecModeSimpleProtocol,
	} {
		_, err := conn.Exec(ctx, statement, mode)
		var failure *pgconn.PgError
		if !errors.As(err, &failure) {
			return fmt.Errorf("let through: %v", err)
		}
		fmt.Println("refused", failure.Code)
	}
	var after int
	if err := conn.QueryRow(ctx, "select 1").Scan(&after); err != nil {
		return err
	}
	fmt.Println("after", after)
	return nil
}
