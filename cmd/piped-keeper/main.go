// The keeper of piped: it starts the programs of sessions, reaps them, and holds
// copies of their descriptors for the daemon that comes after one that was
// killed. No data flows through it. piped starts it by itself.
package main

import (
	"os"

	"github.com/piped-dev/piped/keeper/custody"
)

var version = "devel" // stamped by the Makefile

func main() { os.Exit(custody.Main(os.Args[1:], version)) }
