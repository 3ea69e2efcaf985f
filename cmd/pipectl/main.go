// Command pipectl drives piped from a shell: it creates sessions and pipes,
// starts programs on them, sends and receives messages, and looks at everything.
//
// Its stdout is data alone; everything else goes to stderr. Exit codes: 0, 1
// error, 2 wrong use, 3 the end came before the wanted count, 124 timeout. The
// verb run exits as its program does, 128+n for a signal, and with 125 when piped
// failed or the result is incomplete, 126 when the program cannot be executed,
// 127 when it is not found.
package main

import (
	"context"
	"io"
	"os"
)

func main() {
	os.Exit(int(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}

// run executes one command line.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) exitCode {
	f := &factory{in: in, out: out, errOut: errOut}
	root := newRootCmd(f)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	return f.report(cmd, err)
}
