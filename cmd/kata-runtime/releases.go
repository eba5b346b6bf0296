package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/katabuild/katabuild/releases/admit"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/roles"
)

// defaultPolicy is where katabuild looks for the policy of a host, too.
const defaultPolicy = "/etc/katabuild/release-policy.yaml"

// offered are the flags of the questions about releases.
type offered struct {
	list, version, all bool
	policy             string
}

// releaseAnswer is what is said about releases, in JSON.
type releaseAnswer struct {
	Version  string        `json:"version"` // of this program
	Newer    []roles.Offer `json:"newer"`   // the highest of each channel, where that is higher
	Releases []roles.Offer `json:"releases,omitempty"`
}

// releases asks the roles that a policy trusts which releases there are.
func (a *app) releases(ctx context.Context, o offered, asJSON bool) (err error) {
	p, err := policy.Read(o.policy)
	if err != nil {
		return err
	}
	// A host's memory of roles is for what it installs. This only tells, and leaves nothing.
	dir, err := os.MkdirTemp("", "kata-runtime-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	asker := &admit.Asker{Policy: p, Now: time.Now, Memory: func([]byte) (string, error) {
		return filepath.Join(dir, "roles.json"), nil
	}}
	all, err := asker.Offered(ctx, o.all)
	if err != nil {
		return fmt.Errorf("releases by %s: %w", o.policy, err)
	}
	answer := releaseAnswer{Version: version, Newer: newerThan(version, all)}
	if o.list {
		answer.Releases = all
	}
	switch {
	case asJSON:
		return a.writeJSON(answer)
	case o.list:
		return a.listReleases(all)
	case len(answer.Newer) == 0:
		_, err = fmt.Fprintf(a.out, "kata-runtime %s: no newer release is offered\n", version)
		return err
	}
	for _, n := range answer.Newer {
		if _, err := fmt.Fprintf(a.out, "kata-runtime %s: channel %s offers %s\n", version, n.Channel,
			n.Version); err != nil {
			return err
		}
	}
	return nil
}

// newerThan are the highest releases of each channel that are higher than a version. A program that is of no release,
// whose version is none, is older than all.
func newerThan(version string, all []roles.Offer) []roles.Offer {
	newer := []roles.Offer{}
	for i, o := range all { // sorted by channel, the highest first
		if i > 0 && all[i-1].Channel == o.Channel {
			continue
		}
		if index.CheckVersion(version) != nil || index.CompareVersions(o.Version, version) > 0 {
			newer = append(newer, o)
		}
	}
	return newer
}

func (a *app) listReleases(all []roles.Offer) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(w, "CHANNEL\tVERSION\tROLE\tINDEX"); err != nil {
		return err
	}
	for _, o := range all {
		note := ""
		if o.Version == version {
			note = "\tthis kata-runtime's"
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s%s\n", o.Channel, o.Version, o.Role, o.Index, note); err != nil {
			return err
		}
	}
	return w.Flush()
}
