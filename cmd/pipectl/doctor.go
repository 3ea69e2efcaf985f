package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/piped-dev/piped/client"
	pipedv1 "github.com/piped-dev/piped/gen/piped/v1"
	"github.com/spf13/cobra"
)

// crowded is the share of the sessions that fit, in percent, from which on it is
// time to do something about it.
const crowded = 90

// A finding is one thing that doctor looked at.
type finding struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Detail string `json:"detail,omitempty"`
	// Advice is what to do about it.
	Advice string `json:"advice,omitempty"`
}

// A diagnosis is everything that doctor has to say.
type diagnosis struct {
	Passed     bool      `json:"passed"`
	Durability string    `json:"durability,omitempty"`
	Promise    string    `json:"promise,omitempty"`
	Checks     []finding `json:"checks"`
}

func (d *diagnosis) add(found finding) {
	d.Checks = append(d.Checks, found)
	d.Passed = d.Passed && found.Passed
}

func newDoctorCmd(f *factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check that all is well with the daemon here",
		Long: `Connect to the daemon, or say why that does not work and what to do; then print each
thing that was checked, and what is promised on this machine when clients,
connections or the daemon itself are lost.

It exits with 0 when all is well, and with 1 when something is not.`,
		Example: `  pipectl doctor
  pipectl doctor -o json | jq .promise`,
		Args:              arguments(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f.ran = true
		d := f.diagnose(cmd.Context())
		if err := f.printDiagnosis(d, *out); err != nil {
			return err
		}
		if !d.Passed {
			return &codedError{code: exitError}
		}
		return nil
	}
	return cmd
}

func (f *factory) diagnose(ctx context.Context) *diagnosis {
	d := &diagnosis{Passed: true}
	info, err := f.askInfo(ctx)
	if err != nil {
		d.add(finding{Name: "connection", Detail: err.Error(), Advice: hint(err)})
		return d
	}
	d.add(finding{Name: "connection", Passed: true, Detail: fmt.Sprintf("piped %s, pid %d", info.GetVersion(), info.GetPid())})
	d.add(versionFinding(pipectlVersion(), info.GetVersion()))
	d.add(sessionsFinding(info))
	for _, check := range info.GetChecks() {
		d.add(finding{Name: check.GetName(), Passed: check.GetPassed(), Detail: check.GetDetail()})
	}
	d.Durability, d.Promise = durabilityText(info), promise(info.GetDurability())
	return d
}

func (f *factory) askInfo(ctx context.Context) (*pipedv1.GetServerInfoResponse, error) {
	c, err := f.client(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	return c.Info(ctx)
}

// versionFinding compares the versions of the two programs.
func versionFinding(own, daemon string) finding {
	switch {
	case own == daemon:
		return finding{Name: "version", Passed: true, Detail: "pipectl and piped are both " + own}
	case own == unreleased, daemon == unreleased:
		return finding{Name: "version", Passed: true, Detail: fmt.Sprintf("pipectl is %s, piped is %s: one is no release, and they cannot be compared", own, daemon)}
	}
	return finding{
		Name: "version", Detail: fmt.Sprintf("pipectl is %s, piped is %s", own, daemon),
		Advice: "install both from one release, and restart piped when its sessions allow it",
	}
}

// sessionsFinding says whether the daemon has room for more.
func sessionsFinding(info *pipedv1.GetServerInfoResponse) finding {
	have, room := info.GetActiveSessions()+info.GetEndedSessions(), info.GetLimits().GetMaxSessions()
	found := finding{
		Name: "sessions", Passed: have*100 < room*crowded,
		Detail: fmt.Sprintf("%d of about %d that its descriptor limit leaves room for", have, room),
	}
	if !found.Passed {
		found.Advice = hints[client.ErrDescriptorLimit]
	}
	return found
}

// promise says in a sentence what outlives which loss.
func promise(d pipedv1.Durability) string {
	const clients = "The loss of clients and connections loses nothing, doubles nothing and reorders nothing"
	switch d {
	case pipedv1.Durability_DURABILITY_MEMORY:
		return clients + "; what is in the daemon is in its memory, and is lost with it."
	case pipedv1.Durability_DURABILITY_KERNEL:
		return clients + "; what is in the daemon is kept in the kernel, exact at every instant, but only the daemon holds it, so sessions still end with the daemon."
	default:
		return "This daemon makes a promise that this pipectl does not know."
	}
}

func (f *factory) printDiagnosis(d *diagnosis, out output) error {
	if out == outputJSON {
		return printJSON(f.out, d)
	}
	table := tabwriter.NewWriter(f.out, 0, 0, 2, ' ', 0)
	for _, found := range d.Checks {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", found.Name, checkText(found.Passed, found.Detail))
		if found.Advice != "" {
			_, _ = fmt.Fprintf(table, "\t%s\n", found.Advice)
		}
	}
	if d.Promise != "" {
		_, _ = fmt.Fprintf(table, "durability\t%s\n", d.Durability)
		_, _ = fmt.Fprintf(table, "promise\t%s\n", d.Promise)
	}
	return table.Flush()
}
