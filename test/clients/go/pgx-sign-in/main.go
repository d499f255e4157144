// Signs in to PostgreSQL with pgx as the URL says, asks who it is, and has a statement cancelled by a context's deadline.
//
//	pgx-sign-in URL            prints the account and the client's view of TLS
//	pgx-sign-in URL cancel     prints the SQLSTATE or error of the cancelled statement, and what the connection says then
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run() error {
	config, err := pgx.ParseConfig(os.Args[1])
	if err != nil {
		return err
	}
	cancels := len(os.Args) > 2 && os.Args[2] == "cancel"
	if cancels {
		// By default pgx gives the connection up at the deadline; this has it send a CancelRequest.
		config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 10 * time.Second}
		}
	}
	ctx := context.Background()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if cancels {
		short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
		defer stop()
		_, err := conn.Exec(short, "select pg_sleep(60)")
		var pgError *pgconn.PgError
		if errors.As(err, &pgError) {
			fmt.Println("cancelled:", pgError.Code)
		} else {
			fmt.Println("cancelled:", err)
		}
	}
	var user string
	if err := conn.QueryRow(ctx, "select current_user::text").Scan(&user); err != nil {
		return err
	}
	fmt.Println("user:", user)
	return nil
}
