// A tour through go-sql-driver: `mysql-tour DSN`. Prints one line for each stop.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dsn string) error {
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	ctx := context.Background()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	if err := rows(ctx, conn, "who", "SELECT CURRENT_USER(), DATABASE(), VERSION()"); err != nil {
		return err
	}
	// With arguments, this driver prepares, executes and closes.
	moment := time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC)
	if err := rows(ctx, conn, "parameters", "SELECT ?, ?, ?, ?, ?, ?", int64(-7), 1.5, "größer", []byte{0, 255}, moment, nil); err != nil {
		return err
	}
	statement, err := conn.PrepareContext(ctx, "SELECT n FROM numbers WHERE n < ? ORDER BY n")
	if err != nil {
		return err
	}
	for limit := 1; limit < 4; limit++ {
		result, err := statement.QueryContext(ctx, limit)
		if err != nil {
			return err
		}
		if err := print("prepared", result); err != nil {
			return err
		}
	}
	statement.Close()
	if err := rows(ctx, conn, "long", "SELECT LENGTH(?)", strings.Repeat("x", 3<<20)); err != nil {
		return err
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for n := 0; n < 5; n++ {
		result, err := tx.Exec("INSERT INTO batch (n, s) VALUES (?, ?)", n, fmt.Sprint("row ", n))
		if err != nil {
			return err
		}
		affected, _ := result.RowsAffected()
		fmt.Println("inserted", affected)
	}
	if err := tx.Rollback(); err != nil {
		return err
	}
	if err := rows(ctx, conn, "several", "SELECT 1; SELECT 'b', 2; CALL two()"); err != nil {
		return err
	}
	_, err = conn.ExecContext(ctx, "SELECT nosuch")
	fmt.Println("error", err)
	if err := rows(ctx, conn, "many", "SELECT COUNT(*), SUM(a.n) FROM numbers a, numbers b"); err != nil {
		return err
	}
	mysql.RegisterReaderHandler("data", func() io.Reader {
		return strings.NewReader("1,a\n2,b\n3,c\n")
	})
	tx, err = conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	result, err := tx.Exec("LOAD DATA LOCAL INFILE 'Reader::data' INTO TABLE batch FIELDS TERMINATED BY ',' (n, s)")
	if err != nil {
		return err
	}
	affected, _ := result.RowsAffected()
	fmt.Println("file", affected)
	if err := tx.Rollback(); err != nil {
		return err
	}
	return conn.Close()
}

func rows(ctx context.Context, conn *sql.Conn, label string, query string, arguments ...any) error {
	result, err := conn.QueryContext(ctx, query, arguments...)
	if err != nil {
		return err
	}
	return print(label, result)
}

func print(label string, result *sql.Rows) error {
	defer result.Close()
	for more := true; more; more = result.NextResultSet() {
		columns, err := result.Columns()
		if err != nil {
			return err
		}
		values := make([]sql.RawBytes, len(columns))
		pointers := make([]any, len(columns))
		for index := range values {
			pointers[index] = &values[index]
		}
		for result.Next() {
			if err := result.Scan(pointers...); err != nil {
				return err
			}
			fmt.Printf("%s %q %q\n", label, columns, values)
		}
	}
	return result.Err()
}
