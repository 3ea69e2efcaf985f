// Package docs runs what the manuals show. A fenced block marked "sh" in README.md, docs/quickstart-python.md, docs/framing.md, docs/recording.md or docs/restarts.md is a script, one marked
// "python file=NAME" is a file that is there for the scripts after it, and a "text" block behind a script is what the script prints.
// Links, and the targets that "make TARGET" names, are looked up too. It has no code of its own, only tests.
package docs
