package session

import (
	"crypto/rand"
	"regexp"
	"strings"
)

// maxName is the length of the longest name, in bytes.
const maxName = 63

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// checkName refuses a name that could not be written in an endpoint reference.
func checkName(what, name string) error {
	if !validName.MatchString(name) {
		return argument("%s name %q: want 1 to 63 of a-z 0-9 . _ -, the first a letter or digit", what, name)
	}
	return nil
}

// baseName makes a name out of a program's path.
func baseName(program string) string {
	name := strings.ToLower(program[strings.LastIndexByte(program, '/')+1:])
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return '-'
	}, name)
	name = strings.TrimLeft(name, "._-")
	if name == "" {
		return "process"
	}
	return name[:min(len(name), 40)]
}

// randomName returns base with a short random ending.
func randomName(base string) string {
	return base + "-" + strings.ToLower(rand.Text()[:4])
}
