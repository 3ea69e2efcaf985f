package main

import (
	"strings"

	"github.com/piped-dev/piped/client"
)

// parseRef reads SESSION[/PIPE][~INCARNATION][:END] from the command line.
func parseRef(text string) (client.Ref, error) {
	ref, err := client.ParseRef(text)
	if err != nil {
		return client.Ref{}, usageError("%w", err)
	}
	return ref, nil
}

// parseTarget reads NAME[@PROC] from the command line.
func parseTarget(text string) (session, process string, err error) {
	session, process, found := strings.Cut(text, "@")
	if err := client.CheckName(session); err != nil {
		return "", "", usageError("%q is not NAME[@PROC]: session %w", text, err)
	}
	if found {
		if err := client.CheckName(process); err != nil {
			return "", "", usageError("%q is not NAME[@PROC]: process %w", text, err)
		}
	}
	return session, process, nil
}

// parseName reads the name of a session from the command line.
func parseName(text string) (string, error) {
	if err := client.CheckName(text); err != nil {
		return "", usageError("session %w", err)
	}
	return text, nil
}
