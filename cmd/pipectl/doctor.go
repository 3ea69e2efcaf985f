package main

import (
	"context"
	"fmt"
	"strings"
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
	Survival   *survival `json:"survival,omitempty"`
	Checks     []finding `json:"checks"`
}

// A survival says what outlives the daemon, and what did.
type survival struct {
	Survives   bool   `json:"survives"`
	Reason     string `json:"reason,omitempty"`
	FrontEpoch uint64 `json:"front_epoch"`
	// KeeperPid is 0 where there is no keeper.
	KeeperPid     int32  `json:"keeper_pid"`
	KeeperVersion string `json:"keeper_version,omitempty"`
	// Pause of the last restart, in seconds; 0 where it is not known, or where there
	// was none. Recovered and Lost count its sessions.
	Pause     float64 `json:"pause"`
	Recovered uint32  `json:"recovered"`
	Lost      uint32  `json:"lost"`
}

func survivalOf(info *pipedv1.GetServerInfoResponse) *survival {
	restart := info.GetLastRestart()
	return &survival{
		Survives: info.GetSurvivesDaemonDeath(), Reason: info.GetSurvivalReason(), FrontEpoch: info.GetFrontEpoch(),
		KeeperPid: info.GetKeeper().GetPid(), KeeperVersion: info.GetKeeper().GetVersion(),
		Pause: restart.GetPause().AsDuration().Seconds(), Recovered: restart.GetRecoveredSessions(), Lost: restart.GetLostSessions(),
	}
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
	d.add(keeperFinding(info))
	if info.GetCgroups() != nil { // none is no fault, but for whoever wants limits
		d.add(finding{Name: "cgroups", Passed: true, Detail: cgroupsText(info.GetCgroups())})
	}
	if info.GetLastRestart() != nil {
		d.add(restartFinding(info.GetLastRestart()))
	}
	d.Durability, d.Promise, d.Survival = durabilityText(info), promise(info), survivalOf(info)
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

// keeperFinding says whether sessions outlive the daemon now.
func keeperFinding(info *pipedv1.GetServerInfoResponse) finding {
	found := finding{Name: "keeper", Detail: fmt.Sprintf("%s; front epoch %d", keeperText(info.GetKeeper()), info.GetFrontEpoch())}
	switch k := info.GetKeeper(); {
	case k.GetAwaySince() != nil:
		found.Advice = "while it is away the end of the daemon is the end of its sessions: see the log of piped for why it does not come back"
	case k == nil && info.GetDurability() == pipedv1.Durability_DURABILITY_KERNEL:
		found.Advice = "without it the end of the daemon is the end of its sessions: install piped-keeper beside piped"
	case k != nil && releaseOf(k.GetVersion()) != releaseOf(info.GetVersion()):
		// It outlives upgrades of the daemon, and speaks to older and newer ones.
		found.Passed = true
		found.Detail += "; another version than piped, which is no harm"
	default:
		found.Passed = true
	}
	return found
}

// releaseOf is a version that can be compared: builds without one say so in two ways.
func releaseOf(version string) string { return strings.Trim(version, "()") }

// restartFinding tells of the last restart. Sessions that were lost are no fault
// that lasts.
func restartFinding(r *pipedv1.Restart) finding {
	found := finding{Name: "restart", Passed: true, Detail: restartText(r)}
	if r.GetLostSessions() > 0 {
		found.Advice = "pipectl inspect NAME says why a session was lost"
	}
	return found
}

// promise says in a sentence what outlives which loss.
func promise(info *pipedv1.GetServerInfoResponse) string {
	const clients = "The loss of clients and connections loses nothing, doubles nothing and reorders nothing"
	switch info.GetDurability() {
	case pipedv1.Durability_DURABILITY_MEMORY:
		return clients + "; what is in the daemon is in its memory, and is lost with it."
	case pipedv1.Durability_DURABILITY_KERNEL:
		if info.GetSurvivesDaemonDeath() {
			return clients + ", and neither does the death of the daemon, by SIGKILL at any instant, or the death of its keeper: the next one goes on. " +
				"Both killed together, and a restart of the machine, lose sessions, and say so."
		}
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
