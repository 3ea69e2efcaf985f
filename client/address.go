package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// AddressVariable is the environment variable that holds the daemon's address.
const AddressVariable = "PIPED_ADDR"

// systemSocket is where a daemon of the whole machine listens.
const systemSocket = "/run/piped/piped.sock"

// maxSocketPath is what a socket address holds on Linux; macOS has room for 103.
const maxSocketPath = 107

// ErrNotTrusted says that the directory of a socket belongs to somebody else or
// is open to others, so that anybody could be listening there.
var ErrNotTrusted = errors.New("socket directory not trusted")

// An AddressError says what is wrong with an address, and what would be right.
type AddressError struct {
	// Address is what was given.
	Address string
	// Problem is for people.
	Problem string
}

// Error returns the address and the problem.
func (e *AddressError) Error() string { return fmt.Sprintf("address %q: %s", e.Address, e.Problem) }

// DefaultSocket returns the address on which a daemon listens, and a client
// looks for it, when nobody says otherwise: unix://$XDG_RUNTIME_DIR/piped/piped.sock,
// or /tmp/piped-UID/piped.sock where that variable is not set. Windows has none.
func DefaultSocket() (string, error) {
	if runtime.GOOS == "windows" {
		return "", errors.New("there is no default address on windows")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return "unix://" + filepath.Join(dir, "piped", "piped.sock"), nil
	}
	return "unix://" + filepath.Join(sharedDirectory(), "piped.sock"), nil
}

// sharedDirectory is the private directory of this user inside /tmp.
func sharedDirectory() string { return fmt.Sprintf("/tmp/piped-%d", os.Getuid()) }

// DefaultAddresses returns where a client looks for a daemon when neither a flag
// nor PIPED_ADDR names one, in this order.
func DefaultAddresses() []string {
	var addrs []string
	if own, err := DefaultSocket(); err == nil {
		addrs = append(addrs, own)
	}
	if runtime.GOOS != "windows" {
		addrs = append(addrs, "unix://"+systemSocket)
	}
	return addrs
}

// SocketPath returns the path of the socket that an address names:
// unix:///PATH, unix:PATH or an absolute path. Others are an *AddressError.
func SocketPath(addr string) (string, error) {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if after, found := strings.CutPrefix(path, "//"); found && isUnix {
		path = after
	}
	problem := ""
	switch {
	case addr == "":
		problem = "it is empty: give unix:///PATH"
	case isUnix && path == "", isUnix && strings.HasPrefix(addr, "unix://") && !filepath.IsAbs(path):
		problem = "give an absolute path, as unix:///PATH"
	case len(path) > maxSocketPath:
		problem = fmt.Sprintf("the path of a socket has at most %d bytes", maxSocketPath)
	case isUnix, filepath.IsAbs(addr):
		return path, nil
	default:
		problem = "it is not a unix socket, and there is no TLS yet: forward the socket of the other machine " +
			"(ssh -L /tmp/piped.sock:" + systemSocket + " HOST) and give unix:///tmp/piped.sock"
	}
	return "", &AddressError{Address: addr, Problem: problem}
}

// CheckSocketDirectory refuses, with ErrNotTrusted, a socket in this user's
// directory below /tmp when that directory is not this user's or not 0700:
// anybody may create it there. A directory that does not exist is no error.
func CheckSocketDirectory(path string) error {
	dir := filepath.Dir(path)
	if runtime.GOOS == "windows" || dir != sharedDirectory() {
		return nil
	}
	return checkPrivate(dir)
}

// checkPrivate refuses a directory in which somebody else could have put a
// socket.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%w: %s is not a directory", ErrNotTrusted, dir)
	case !ownedByMe(info):
		return fmt.Errorf("%w: %s belongs to another user", ErrNotTrusted, dir)
	case info.Mode().Perm() != 0o700:
		return fmt.Errorf("%w: %s has mode %04o and must have 0700", ErrNotTrusted, dir, info.Mode().Perm())
	default:
		return nil
	}
}

// A NoServerError says where a client looked and that nobody answered.
type NoServerError struct {
	// Addresses are the addresses in the order they were tried.
	Addresses []string
	// Errs are the reasons, one for each address.
	Errs []error
}

// Error lists addresses and reasons.
func (e *NoServerError) Error() string {
	tried := make([]string, len(e.Addresses))
	for i, addr := range e.Addresses {
		tried[i] = fmt.Sprintf("%s (%v)", addr, e.Errs[i])
	}
	return "no daemon answers at " + strings.Join(tried, " or ")
}

// Unwrap returns the reasons and ErrUnavailable.
func (e *NoServerError) Unwrap() []error { return append([]error{ErrUnavailable}, e.Errs...) }

// FindAddress returns the first address at which somebody answers. An explicit
// address is the only one tried, then PIPED_ADDR is, then come the
// DefaultAddresses. The error is a *NoServerError, an *AddressError, or
// ErrNotTrusted.
func FindAddress(ctx context.Context, explicit string) (string, error) {
	addrs := Candidates(explicit)
	failed := &NoServerError{}
	for _, addr := range addrs {
		if _, err := SocketPath(addr); err != nil {
			return "", err
		}
		err := probe(ctx, addr)
		if err == nil {
			return addr, nil
		}
		if errors.Is(err, ErrNotTrusted) || ctx.Err() != nil {
			return "", err
		}
		failed.Addresses = append(failed.Addresses, addr)
		failed.Errs = append(failed.Errs, err)
	}
	if len(addrs) == 0 {
		return "", &AddressError{Problem: "there is no usual place on this system: set " + AddressVariable}
	}
	return "", failed
}

// Candidates returns the addresses that FindAddress tries, in order.
func Candidates(explicit string) []string {
	if explicit != "" {
		return []string{explicit}
	}
	if addr := os.Getenv(AddressVariable); addr != "" {
		return []string{addr}
	}
	return DefaultAddresses()
}

// probe says whether somebody listens at an address.
func probe(ctx context.Context, addr string) error {
	conn, err := dialSocket(ctx, addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// dialSocket connects to the socket of an address, after a look at who owns it.
func dialSocket(ctx context.Context, addr string) (net.Conn, error) {
	path, err := SocketPath(addr)
	if err != nil {
		return nil, err
	}
	if err := CheckSocketDirectory(path); err != nil {
		return nil, err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		// The path is said by the caller; the system's own words are enough.
		if call, ok := errors.AsType[*os.SyscallError](err); ok {
			return nil, call.Err
		}
		return nil, err
	}
	return conn, nil
}
