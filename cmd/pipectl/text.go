package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
)

// enumText turns the name of an enum value, as STATE_HANDED_OVER, into words.
func enumText(name string) string {
	for _, prefix := range []string{"STATE_", "KIND_"} {
		name = strings.TrimPrefix(name, prefix)
	}
	return strings.ReplaceAll(strings.ToLower(name), "_", " ")
}

// commandText joins a command line so that it can be read, and typed in again as
// far as it holds no control characters.
func commandText(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = quoteArg(arg)
	}
	return strings.Join(quoted, " ")
}

func quoteArg(arg string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./=:,+@%", r)
	}
	if arg != "" && strings.IndexFunc(arg, func(r rune) bool { return !plain(r) }) < 0 {
		return arg
	}
	if strings.IndexFunc(arg, func(r rune) bool { return !strconv.IsPrint(r) }) >= 0 {
		return strconv.Quote(arg)
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// countText is a number of things: 1 message, 2 messages.
func countText[N uint64 | int](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// amountText is so many messages, of so many bytes.
func amountText(messages, bytes uint64) string {
	return countText(messages, "message") + ", " + countText(bytes, "byte")
}

// memoryText is so much memory, in two digits at least.
func memoryText(bytes int64) string {
	amount, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for amount >= 1<<10 && len(units) > 1 {
		amount, units = amount/(1<<10), units[1:]
	}
	if amount < 10 && bytes >= 1<<10 {
		return fmt.Sprintf("%.1f %s", amount, units[0])
	}
	return fmt.Sprintf("%.0f %s", amount, units[0])
}

// printable writes what a terminal would act on as an escape: other programs
// choose the text.
func printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case !strconv.IsPrint(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// shorten cuts a text to so many characters.
func shorten(text string, limit int) string {
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return text
}

// exitText says how a process is, or how it ended.
func exitText(process *pipedv1.Process) string {
	exit := process.GetExit()
	switch {
	case exit == nil:
		return "running"
	case exit.GetSignal() != "" && exit.GetCoreDumped():
		return "signal " + exit.GetSignal() + " (core dumped)"
	case exit.GetSignal() != "":
		return "signal " + exit.GetSignal()
	case exit.GetUnknown():
		return "exit unknown"
	default:
		return fmt.Sprintf("exit %d", exit.GetCode())
	}
}

// exitCauseText is exitText with the reason, if the daemon ended the process. Who
// sent a signal by hand does not have to be told.
func exitCauseText(process *pipedv1.Process) string {
	switch process.GetExit().GetCause() {
	case pipedv1.Exit_CAUSE_STOPPED:
		return exitText(process) + " (stopped)"
	case pipedv1.Exit_CAUSE_TIMEOUT:
		return exitText(process) + " (timeout)"
	case pipedv1.Exit_CAUSE_OOM:
		return exitText(process) + " (out of memory)"
	case pipedv1.Exit_CAUSE_DELETED:
		return exitText(process) + " (deleted)"
	case pipedv1.Exit_CAUSE_RESTARTED:
		return exitText(process) + " (restarted)"
	case pipedv1.Exit_CAUSE_LEASE_ENDED:
		return exitText(process) + " (its creator was gone)"
	default:
		return exitText(process)
	}
}

// exitWhyText is exitCauseText for whoever looks closely.
func exitWhyText(process *pipedv1.Process) string {
	if process.GetExit().GetCause() == pipedv1.Exit_CAUSE_SIGNAL_BY_CLIENT {
		return exitText(process) + " (by a client)"
	}
	return exitCauseText(process)
}
