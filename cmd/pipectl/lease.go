package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

// leaseVariable names a lease for send and recv.
const leaseVariable = "PIPED_LEASE_TOKEN"

// leaseRoles are the rights that a lease can give.
var leaseRoles = map[string]pipedv1.LeaseRole{
	"writer":   pipedv1.LeaseRole_LEASE_ROLE_WRITER,
	"consumer": pipedv1.LeaseRole_LEASE_ROLE_CONSUMER,
}

// A leaseToken is what proves a lease, and which right it gives: ROLE-HEX.
type leaseToken struct {
	role  pipedv1.LeaseRole
	proof []byte
}

// String returns the token as it is given on the command line.
func (t *leaseToken) String() string {
	if len(t.proof) == 0 {
		return ""
	}
	return roleText(t.role) + "-" + hex.EncodeToString(t.proof)
}

// Type names the value in help.
func (t *leaseToken) Type() string { return "TOKEN" }

// Set takes what pipectl lease acquire has printed.
func (t *leaseToken) Set(text string) error {
	role, digits, _ := strings.Cut(text, "-")
	proof, err := hex.DecodeString(digits)
	if err != nil || len(proof) == 0 || leaseRoles[role] == 0 {
		return fmt.Errorf("it is what pipectl lease acquire prints, as writer-0123456789abcdef")
	}
	t.role, t.proof = leaseRoles[role], proof
	return nil
}

// roleText is the name of a role on the command line.
func roleText(role pipedv1.LeaseRole) string {
	return strings.ToLower(strings.TrimPrefix(role.String(), "LEASE_ROLE_"))
}

func addLeaseToken(cmd *cobra.Command, token *leaseToken) {
	cmd.Flags().Var(token, "lease-token", "the lease, as pipectl lease acquire printed it (else "+leaseVariable+")")
}

// orEnvironment takes the token from the environment if it was not given.
func (t *leaseToken) orEnvironment() error {
	text := os.Getenv(leaseVariable)
	switch {
	case len(t.proof) > 0:
		return nil
	case text == "":
		return usageError("which lease? give --lease-token, or %s", leaseVariable)
	}
	if err := t.Set(text); err != nil {
		return usageError("%s: %w", leaseVariable, err)
	}
	return nil
}

// leaseFlags are how send and recv come to their right.
type leaseFlags struct {
	token leaseToken
	steal bool
}

func (l *leaseFlags) add(cmd *cobra.Command) {
	addLeaseToken(cmd, &l.token)
	cmd.Flags().BoolVar(&l.steal, "steal", false, "take the right from the client that has it")
	exclusive(cmd, "lease-token", "steal")
}

// proof returns the proof of the lease to use for a role, or nil.
func (l *leaseFlags) proof(role pipedv1.LeaseRole) ([]byte, error) {
	if len(l.token.proof) > 0 && l.token.role != role {
		return nil, usageError("--lease-token is for a %s, and this needs one for a %s", roleText(l.token.role), roleText(role))
	}
	return l.matching(role)
}

// matching returns it if it is for that role: a token in the environment leaves
// the other role alone.
func (l *leaseFlags) matching(role pipedv1.LeaseRole) ([]byte, error) {
	token := l.token
	if len(token.proof) == 0 && (l.steal || os.Getenv(leaseVariable) == "") {
		return nil, nil
	}
	if err := token.orEnvironment(); err != nil || token.role != role {
		return nil, err
	}
	return token.proof, nil
}

func newLeaseCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lease",
		Short: "Reserve the right to send into an end, or to consume from it",
		Long: `One client at a time may send into an end, and one may consume from it. A connected
client holds that right by itself; a lease keeps it between one pipectl and the next,
or while a client is away, until it is released or its time runs out.

"acquire" prints a token. With it in ` + leaseVariable + `, or as --lease-token, send and
recv use the lease, and nobody else can. "hold" does all of it for one command.`,
		Example: `  pipectl lease hold calc -- ./talk-to-calc.sh
  export PIPED_LEASE_TOKEN=$(pipectl lease acquire calc --for 10m)
  pipectl lease renew calc --for 10m
  pipectl lease release calc`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s does not know %q", cmd.CommandPath(), args[0])
			}
			return fmt.Errorf("%s needs acquire, renew, release or hold", cmd.CommandPath())
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(newLeaseAcquireCmd(f), newLeaseRenewCmd(f), newLeaseReleaseCmd(f), newLeaseHoldCmd(f))
	return cmd
}

// acquireFlags say which lease to take.
type acquireFlags struct {
	role     string
	holder   string
	duration time.Duration
	steal    bool
}

func (a *acquireFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&a.role, "role", "writer", "the right: writer (to send) or consumer (to receive)")
	flags.StringVar(&a.holder, "holder", "", "by what name others see who has it (else user, host and process)")
	flags.BoolVar(&a.steal, "steal", false, "take it from whoever has it")
	addDuration(cmd, &a.duration)
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"writer", "consumer"}, cobra.ShellCompDirectiveNoFileComp))
}

func addDuration(cmd *cobra.Command, duration *time.Duration) {
	cmd.Flags().DurationVar(duration, "for", 0, "how long it lasts unless it is renewed, as 10m (else as long as the daemon says)")
}

func (a *acquireFlags) options() (client.LeaseOptions, error) {
	role := leaseRoles[a.role]
	if role == 0 {
		return client.LeaseOptions{}, usageError("--role %q is not known: use writer or consumer", a.role)
	}
	if a.duration < 0 {
		return client.LeaseOptions{}, usageError("--for %v is below 0", a.duration)
	}
	if a.holder == "" {
		a.holder = clientName()
	}
	return client.LeaseOptions{Role: role, Holder: a.holder, Duration: a.duration, Steal: a.steal}, nil
}

func newLeaseAcquireCmd(f *factory) *cobra.Command {
	var opts acquireFlags
	cmd := &cobra.Command{
		Use:   "acquire REF",
		Short: "Take a lease and print its token",
		Long: `Take the right to send into an end, or to consume from it, and print a token that
proves it. While somebody else has it, that is refused with their name; --steal takes
it from them: their stream ends at once, and nothing of theirs is written any more.
With the --holder that has it already, it is renewed and the token is the same.`,
		Example: `  export PIPED_LEASE_TOKEN=$(pipectl lease acquire calc --for 10m)
  pipectl lease acquire work/ctl --role consumer --holder nightly --for 1h -o json`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	opts.add(cmd)
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		leaseOpts, err := opts.options()
		if err != nil {
			return err
		}
		lease, err := c.Endpoint(ref).AcquireLease(ctx, leaseOpts)
		if err != nil {
			return err
		}
		return f.printLease(lease, *out)
	})
	return cmd
}

// leaseJSON is a lease in JSON. Without an expireTime a stream uses it now.
type leaseJSON struct {
	Token      string     `json:"token"`
	Role       string     `json:"role"`
	Holder     string     `json:"holder"`
	Epoch      uint64     `json:"epoch"`
	ExpireTime *time.Time `json:"expireTime,omitempty"`
}

func (f *factory) printLease(lease *client.Lease, out output) error {
	token := leaseToken{role: lease.Role(), proof: lease.Token()}
	if out != outputJSON {
		_, err := fmt.Fprintln(f.out, token.String())
		return err
	}
	value := leaseJSON{Token: token.String(), Role: roleText(lease.Role()), Holder: lease.Holder(), Epoch: lease.Epoch()}
	if until := lease.Expiry(); !until.IsZero() {
		value.ExpireTime = &until
	}
	return printJSON(f.out, value)
}

func newLeaseRenewCmd(f *factory) *cobra.Command {
	var token leaseToken
	var duration time.Duration
	cmd := &cobra.Command{
		Use:   "renew REF",
		Short: "Make a lease last longer",
		Long: `Make a lease last for the time of --for from now, whatever was left of it, and print
its token, which stays the same. A lease that has ended is refused, also when nobody
has the right now: others may have sent, or received, in between.`,
		Example: `  pipectl lease renew calc --for 10m
  pipectl lease renew calc --lease-token writer-0123456789abcdef0123456789abcdef -o json`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	addLeaseToken(cmd, &token)
	addDuration(cmd, &duration)
	out := outputFlag(cmd)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if duration < 0 {
			return usageError("--for %v is below 0", duration)
		}
		if err := token.orEnvironment(); err != nil {
			return err
		}
		lease, err := c.Endpoint(ref).AcquireLease(ctx, client.LeaseOptions{Role: token.role, Token: token.proof, Duration: duration})
		if err != nil {
			return err
		}
		return f.printLease(lease, *out)
	})
	return cmd
}

func newLeaseReleaseCmd(f *factory) *cobra.Command {
	var token leaseToken
	cmd := &cobra.Command{
		Use:   "release REF",
		Short: "Give a lease back",
		Long: `Give a lease back before its time runs out. A stream that uses it ends. A lease that
has ended already is no error.`,
		Example:           `  pipectl lease release calc --lease-token writer-0123456789abcdef0123456789abcdef`,
		Args:              arguments("REF"),
		ValidArgsFunction: f.completeSessions,
	}
	addLeaseToken(cmd, &token)
	cmd.RunE = f.runE(func(ctx context.Context, c *client.Client, args []string) error {
		ref, err := parseRef(args[0])
		if err != nil {
			return err
		}
		if err := token.orEnvironment(); err != nil {
			return err
		}
		return c.Endpoint(ref).ReleaseLease(ctx, token.proof)
	})
	return cmd
}
