package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// maxSocketPath is what fits into a socket address with its final NUL.
const maxSocketPath = 107

// parseAddress returns the path in unix:///PATH.
func parseAddress(address string) (string, error) {
	path, ok := strings.CutPrefix(address, "unix://")
	switch {
	case !ok && strings.HasPrefix(address, "unix:"):
		return "", errors.New("want unix:///PATH, with an absolute path")
	case !ok && strings.HasPrefix(address, "/"):
		return "", fmt.Errorf("want unix://%s", address)
	case !ok:
		return "", errors.New("only unix:///PATH is served: TCP waits for TLS; " +
			"to reach the daemon from another machine, forward the socket with ssh -L LOCAL.sock:REMOTE.sock HOST")
	case !filepath.IsAbs(path):
		return "", errors.New("want unix:///PATH, with an absolute path")
	case strings.HasSuffix(path, "/"):
		return "", errors.New("names a directory: want the path of a socket in it")
	case strings.ContainsAny(path, "%?#\x00"):
		// Clients read the address as a URL, in which these mean something else.
		return "", errors.New("the path may not contain %, ?, # or NUL")
	}
	path = filepath.Clean(path)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("the path has %d bytes: a socket's path has at most %d, so choose a shorter one", len(path), maxSocketPath)
	}
	return path, nil
}
