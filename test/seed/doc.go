// Package seed holds the tests that piped grew from: six small programs with
// real python3 children, each driven through a real daemon twice, by pipectl and
// by the Go client. test/demo shows the same six to people, and a seventh, and is run here too.
package seed
