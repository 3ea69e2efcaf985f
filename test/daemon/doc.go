// Package daemon runs a real piped for tests of the system as a whole.
//
// A test package builds the programs once, in its TestMain, and starts as many
// daemons as it wants:
//
//	func TestMain(m *testing.M) { daemon.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		d := daemon.Start(t)
//		if r := d.Pipectl(t, "", "pipe", "--name", "work"); r.Code != 0 {
//			t.Fatalf("%+v", r)
//		}
//		c := d.Dial(t)
//		...
//	}
//
// The end of the test stops the daemon and fails the test unless the daemon
// exits 0 on SIGTERM and leaves neither socket, keeper nor process behind.
// Whatever a daemon logged is shown with a test that failed.
package daemon
