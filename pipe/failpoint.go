//go:build !failpoints

package pipe

// failpoint names an instant at which a process may be killed. Only a build with
// the tag failpoints does anything there.
func failpoint(string) {}
