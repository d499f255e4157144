// Signs in with go-sql-driver and prints the one value that a query gives.
//
//	mysql-sign-in DSN QUERY [CA-FILE]
//
// With a CA file, `tls=test` in the DSN verifies the server by it.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"fmt"
	"os"

	"github.com/go-sql-driver/mysql"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(dsn string, query string, rest []string) error {
	if len(rest) > 0 {
		pem, err := os.ReadFile(rest[0])
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		if err := mysql.RegisterTLSConfig("test", &tls.Config{RootCAs: pool, ServerName: "localhost"}); err != nil {
			return err
		}
	}
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	var value string
	if err := db.QueryRow(query).Scan(&value); err != nil {
		return err
	}
	fmt.Println(value)
	return nil
}
