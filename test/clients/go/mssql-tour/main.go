// A tour through go-mssqldb, the driver of sqlcmd, Grafana and Terraform: `mssql-tour URL`. Prints one line a step, the
// same for every way to the server.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	mssql "github.com/microsoft/go-mssqldb"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func all(rows *sql.Rows, err error) [][]any {
	check(err)
	defer rows.Close()
	columns, err := rows.Columns()
	check(err)
	found := [][]any{}
	for rows.Next() {
		row := make([]any, len(columns))
		places := make([]any, len(columns))
		for index := range row {
			places[index] = &row[index]
		}
		check(rows.Scan(places...))
		for index, value := range row {
			if bytes, ok := value.([]byte); ok {
				row[index] = fmt.Sprintf("%x", bytes)
			}
		}
		found = append(found, row)
	}
	check(rows.Err())
	return found
}

func main() {
	db, err := sql.Open("sqlserver", os.Args[1])
	check(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec := func(text string, values ...any) int64 {
		result, err := db.Exec(text, values...)
		check(err)
		count, _ := result.RowsAffected()
		return count
	}
	exec("DROP TABLE IF EXISTS tour_go")
	exec("CREATE TABLE tour_go (id int NOT NULL PRIMARY KEY, n nvarchar(40), d decimal(18,4))")
	fmt.Println("inserted", exec("INSERT INTO tour_go (id, n, d) VALUES (1, N'été ☃ 😀', 1.5), (2, NULL, NULL)"))
	fmt.Println("inserted", exec("INSERT INTO tour_go (id, n) VALUES (@p1, @p2)", 3, "it's ü"))
	fmt.Println("rows", all(db.Query("SELECT id, n, d FROM tour_go ORDER BY id")))
	moment := time.Date(2024, 2, 29, 13, 14, 15, 678000000, time.FixedZone("", 7200))
	fmt.Println("types", all(db.Query("SELECT @a, @b, @c, @d, @e, @f, @g", sql.Named("a", true), sql.Named("b", int64(1)<<60),
		sql.Named("c", 3.25), sql.Named("d", []byte{0, 255}), sql.Named("e", moment), sql.Named("f", nil),
		sql.Named("g", mssql.VarChar("plain")))))

	_, err = db.Exec("INSERT INTO tour_go (id) VALUES (1)")
	var failed mssql.Error
	fmt.Println("duplicate", errors.As(err, &failed), failed.Number, failed.Class)

	statement, err := db.Prepare("SELECT @p1 + 1 AS b")
	check(err)
	for value := 1; value < 4; value++ {
		fmt.Println("prepared", all(statement.Query(value)))
	}
	check(statement.Close())

	tx, err := db.Begin()
	check(err)
	_, err = tx.Exec("UPDATE tour_go SET n = @p1", "x")
	check(err)
	check(tx.Rollback())
	fmt.Println("rolled back", all(db.Query("SELECT COUNT(*) FROM tour_go WHERE n = N'x'")))

	exec("DROP PROCEDURE IF EXISTS tour_go_out")
	exec("CREATE PROCEDURE tour_go_out @a int, @o int OUTPUT AS SET @o = @a * 2; RETURN 5")
	var output int64
	var status mssql.ReturnStatus
	_, err = db.Exec("tour_go_out", sql.Named("a", 21), sql.Named("o", sql.Out{Dest: &output}), &status)
	check(err)
	fmt.Println("procedure", output, status)
	exec("DROP PROCEDURE tour_go_out")

	tx, err = db.Begin()
	check(err)
	load, err := tx.Prepare(mssql.CopyIn("tour_go", mssql.BulkOptions{}, "id", "n"))
	check(err)
	for id := 1000; id < 1300; id++ {
		_, err = load.Exec(id, fmt.Sprint("row ", id))
		check(err)
	}
	result, err := load.Exec()
	check(err)
	loaded, _ := result.RowsAffected()
	check(load.Close())
	check(tx.Commit())
	fmt.Println("bulk", loaded, all(db.Query("SELECT COUNT(*) FROM tour_go WHERE id >= 1000")))

	impatient, stop := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer stop()
	began := time.Now()
	_, err = db.ExecContext(impatient, "WAITFOR DELAY '00:00:20'")
	fmt.Println("cancelled", err != nil, time.Since(began) < 10*time.Second)
	fmt.Println("after", all(db.Query("SELECT 7")))
	fmt.Println("many", len(all(db.Query("SELECT TOP 20000 1 AS a, N'some text' AS b FROM sys.all_objects a CROSS JOIN sys.all_columns b"))))
	exec("DROP TABLE tour_go")
}
