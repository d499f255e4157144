// Signs in to SQL Server with go-mssqldb, as sqlcmd and Grafana do: `mssql-sign-in QUERY URL [URL]...`. Prints one line a
// sign-in: `ok` and the first value of the query's answer, or `error` and the message.
package main

import (
	"database/sql"
	"fmt"
	"os"
	"strings"

	_ "github.com/microsoft/go-mssqldb"
)

func main() {
	for _, url := range os.Args[2:] {
		value, err := signIn(url, os.Args[1])
		if err != nil {
			fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		fmt.Println("ok", value)
	}
}

func signIn(url string, query string) (string, error) {
	db, err := sql.Open("sqlserver", url)
	if err != nil {
		return "", err
	}
	defer db.Close()
	var value string
	err = db.QueryRow(query).Scan(&value)
	return value, err
}
