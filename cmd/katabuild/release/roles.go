package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/roles"
)

func (h *Host) rolesCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "roles", Short: "say which releases are offered now, and who may say so: roles, by The Update Framework",
		Long: `roles keeps metadata of The Update Framework (TUF) in a folder, for hosts whose policy trusts a root in
the place of keys. Then keys can be exchanged, releases withdrawn and channels given to others without a word to those
hosts, and a mirror that hands out old releases is noticed within a day.

  root       says which keys the roles have. Its keys stay offline, and are needed once or twice a year.
  targets    lists the releases that are offered, and gives channels to other roles.
  snapshot   says which lists belong together.
  timestamp  says every day anew that nothing newer is there. Its key, and that of snapshot, are on a host that
             publishes.

What a command changes is a draft at first, in DIR/drafts, which clients do not read. "roles sign" signs every draft
for which a key counts, also on a host without a network to which DIR was carried; a draft that enough keys have signed
becomes complete by itself. "roles refresh" then has clients find it. docs/release-roles.md walks through all of it.`,
		Example: `  katabuild roles init roles --root alice.key.pub --root bob.key.pub \
    --targets carol.key.pub --online host.key.pub
  katabuild roles sign roles --key alice.key
  katabuild roles add roles out/release
  katabuild roles sign roles --key carol.key
  katabuild roles refresh roles --key host.key
  katabuild roles show roles`,
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(h.rolesInitCmd(), h.rolesShowCmd(), h.rolesSignCmd(), h.rolesMergeCmd(), h.rolesDiscardCmd(),
		h.rolesAddCmd(), h.rolesWithdrawCmd(), h.rolesRenewCmd(), h.rolesRefreshCmd(), h.rolesDelegateCmd(),
		h.rolesRotateCmd(), h.rolesRevokeCmd(), h.rolesPublishCmd())
	return c
}

// lifeFlag is a duration that people also say in days.
type lifeFlag struct{ d time.Duration }

func (l *lifeFlag) String() string {
	if l.d == 0 {
		return ""
	}
	return l.d.String()
}

func (l *lifeFlag) Type() string { return "time" }

func (l *lifeFlag) Set(s string) (err error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, parsed := strconv.ParseUint(days, 10, 12)
		l.d, err = time.Duration(n)*24*time.Hour, parsed
	} else {
		l.d, err = time.ParseDuration(s)
	}
	if err != nil || l.d <= 0 {
		return errors.New("want a time such as 90d or 36h")
	}
	return nil
}

// life adds the flag that says how long what is drafted is good.
func (h *Host) life(fl *pflag.FlagSet) func() ceremony.When {
	var l lifeFlag
	fl.Var(&l, "good-for", "how long what is drafted is good, such as 90d or 36h (default: root 365d, lists of "+
		"releases 90d)")
	return func() ceremony.When { return ceremony.When{Now: h.Now(), Life: l.d} }
}

// parties adds a flag for the keys of a role.
func parties(fl *pflag.FlagSet, name, what string) *[]string {
	return fl.StringArray(name, nil, "`file` of a public key that "+what+" (repeatable)")
}

// named reads public keys. What people call one is its file's name without .pub and .key.
func named(files []string) ([]ceremony.Named, error) {
	var out []ceremony.Named
	for _, f := range files {
		k, err := keys.ReadPublic(f)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(f), keys.PublicSuffix), ".key")
		out = append(out, ceremony.Named{Name: name, Public: k})
	}
	return out, nil
}

// changed does something to a folder of metadata, and says how its drafts are then.
func (h *Host) changed(ctx context.Context, dir string, change func(*ceremony.Repository) error) (err error) {
	r, err := ceremony.Open(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := change(r); err != nil {
		return err
	}
	return h.showDrafts(r.Status())
}

func (h *Host) rolesInitCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "init DIR --root KEY.pub... --targets KEY.pub... --online KEY.pub...",
		Args:  cobra.ExactArgs(1),
		Short: "draft the first root, and an empty list of releases",
		Long: `init drafts metadata for a folder that has none: the first root, which says whose keys the roles are,
and an empty list of releases. It needs public keys alone. More than half of a role's keys must sign, unless
--threshold says how many. A key is called what its file is called, without .key.pub.`,
		Example: `  katabuild roles init roles --root alice.key.pub --root bob.key.pub --root carol.key.pub \
    --targets dave.key.pub --online host.key.pub --threshold root=2`,
	}
	fl := c.Flags()
	root, targets := parties(fl, "root", "has the role root"), parties(fl, "targets", "has the role targets")
	online := parties(fl, "online", "has the roles snapshot and timestamp")
	snapshot := parties(fl, "snapshot", "has the role snapshot alone")
	timestamp := parties(fl, "timestamp", "has the role timestamp alone")
	thresholds := fl.StringToInt("threshold", nil, "how many keys of a role must sign, as ROLE=NUMBER")
	when := h.life(fl)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		all := map[string][]string{roles.Root: *root, roles.Targets: *targets,
			roles.Snapshot: append(*snapshot, *online...), roles.Timestamp: append(*timestamp, *online...)}
		p := map[string]ceremony.Party{}
		for role, files := range all {
			if len(files) == 0 {
				return &usage.Error{Err: fmt.Errorf("no key for the role %s: name one with --root, --targets, and "+
					"--online or --snapshot and --timestamp", role)}
			}
			k, err := named(files)
			if err != nil {
				return err
			}
			p[role] = ceremony.Party{Keys: k, Threshold: (*thresholds)[role]}
		}
		for role := range *thresholds {
			if all[role] == nil {
				return &usage.Error{Err: fmt.Errorf("--threshold %s: want root, targets, snapshot or timestamp", role)}
			}
		}
		r, err := ceremony.Create(c.Context(), args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		if err := r.Init(p, when()); err != nil {
			return err
		}
		return h.showDrafts(r.Status())
	}
	return c
}

func (h *Host) rolesSignCmd() *cobra.Command {
	var f keyFlags
	c := &cobra.Command{
		Use: "sign DIR (--key FILE | --key-command PROGRAM)", Args: cobra.ExactArgs(1),
		Short: "sign every draft for which a key counts",
		Long: `sign shows the drafts in a folder of metadata, and signs those for which a key counts. A draft that
enough keys have signed becomes complete: the next root needs enough keys of the root before, and enough of its own.
Look at the drafts with "roles show" before: what is signed is what they say, and nothing else is checked.`,
		Example: "  katabuild roles sign roles --key alice.key\n" +
			"  katabuild roles sign /media/stick/roles --key-command \"my-token --key 42\"",
	}
	f.add(c.Flags())
	usage.Rules(c, usage.Rule{Flag: "passphrase-file", Needs: "key"})
	c.RunE = func(c *cobra.Command, args []string) error {
		by, err := h.signer(c.Context(), f)
		if err != nil {
			return err
		}
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			did, err := r.Sign(c.Context(), by)
			if err != nil {
				return err
			}
			if len(did.Signed) == 0 {
				return fmt.Errorf("no draft is waiting for the key %s", by.Public().ID)
			}
			return h.did(did)
		})
	}
	return c
}

func (h *Host) did(r *ceremony.Result) error {
	_, err := fmt.Fprintf(h.Out, "signed: %s\n", orDash(strings.Join(r.Signed, ", ")))
	if err == nil && len(r.Complete) > 0 {
		_, err = fmt.Fprintf(h.Out, "complete: %s\n", strings.Join(r.Complete, ", "))
	}
	return err
}

func (h *Host) rolesMergeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "merge DIR OTHER", Args: cobra.ExactArgs(2),
		Short: "take the signatures that others have put on the same drafts in another folder",
		Long: `merge is for drafts that several people sign side by side, each in a copy of the folder on their own
host.`,
		Example: "  katabuild roles merge roles /media/stick/roles",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			did, err := r.Merge(c.Context(), args[1])
			if err != nil {
				return err
			}
			return h.did(did)
		})
	}
	return c
}

func (h *Host) rolesDiscardCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "discard DIR ROLE", Args: cobra.ExactArgs(2), Short: "give up the draft of a role",
		Example: "  katabuild roles discard roles root",
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error { return r.Discard(args[1]) })
	}
	return c
}

func (h *Host) rolesAddCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "add DIR PLACE...", Args: cobra.MinimumNArgs(2),
		Short: "list releases, once everything in them has been checked",
		Long: `add reads everything in a release, checks that each document is about the guest that it lies with, and
drafts a list that offers it as CHANNEL/VERSION, by the length and the digest of its index. The role that its channel
was delegated to lists it, otherwise targets.

` + placesHelp,
		Example: "  katabuild roles add roles out/release\n" +
			"  katabuild roles add roles oci:registry.example/guests:stable",
	}
	when := h.life(c.Flags())
	access := h.Registries(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := access()
		if err != nil {
			return err
		}
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			for _, name := range args[1:] {
				from, err := place.Open(c.Context(), name, a)
				if err != nil {
					return err
				}
				data, err := checked(c.Context(), from)
				if err = errors.Join(err, from.Close()); err != nil {
					return err
				}
				role, path, err := r.Add(data, when())
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(h.Out, "%s: %s lists it as %s\n", name, role, path); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

// checked is the index of a release in which everything fits.
func checked(ctx context.Context, from place.Source) ([]byte, error) {
	head, err := from.Index(ctx)
	if err != nil {
		return nil, err
	}
	x, err := index.Decode(head.Index)
	if err != nil {
		return nil, err
	}
	return head.Index, judge.Contents(ctx, x, from, claims)
}

func (h *Host) rolesWithdrawCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "withdraw DIR CHANNEL/VERSION...", Args: cobra.MinimumNArgs(2), Short: "take releases off the lists",
		Long: `withdraw drafts lists without these releases. Hosts refuse them once their metadata is newer than that;
what they have pulled stays where it is.`,
		Example: "  katabuild roles withdraw roles stable/1.4.0",
	}
	when := h.life(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			for _, path := range args[1:] {
				role, err := r.Withdraw(path, when())
				if err != nil {
					return err
				}
				if _, err := fmt.Fprintf(h.Out, "%s: %s does not list it any more\n", path, role); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

func (h *Host) rolesRenewCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "renew DIR ROLE...", Args: cobra.MinimumNArgs(2),
		Short:   "draft the next version of root, or of a list of releases, to be good for longer",
		Example: "  katabuild roles renew roles targets\n  katabuild roles renew roles root --good-for 730d",
	}
	when := h.life(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			for _, role := range args[1:] {
				if err := r.Renew(role, when()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c
}

func (h *Host) rolesRefreshCmd() *cobra.Command {
	var f keyFlags
	c := &cobra.Command{
		Use: "refresh DIR (--key FILE | --key-command PROGRAM)", Args: cobra.ExactArgs(1),
		Short: "make the next timestamp, and the next snapshot where one is due: run it several times a day",
		Long: `refresh has clients find what became complete since, and says anew that nothing newer is there. Run it
more often than the timestamp's life, from a timer on the host that publishes: when it stops, clients refuse everything
after that life, as they cannot tell a host that stands still from a mirror that does.`,
		Example: "  katabuild roles refresh roles --key host.key",
	}
	fl := c.Flags()
	f.add(fl)
	usage.Rules(c, usage.Rule{Flag: "passphrase-file", Needs: "key"})
	var snapshot, timestamp lifeFlag
	fl.Var(&snapshot, "snapshot-good-for", "how long a snapshot is good (default 7d)")
	fl.Var(&timestamp, "timestamp-good-for", "how long a timestamp is good (default 1d)")
	c.RunE = func(c *cobra.Command, args []string) error {
		by, err := h.signer(c.Context(), f)
		if err != nil {
			return err
		}
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			now := h.Now()
			did, err := r.Refresh(c.Context(), now, map[string]time.Duration{roles.Snapshot: snapshot.d,
				roles.Timestamp: timestamp.d}, by)
			if err != nil {
				return err
			}
			return errors.Join(h.did(did), h.warn(r.Status(), now))
		})
	}
	return c
}

// soon is how long before its end metadata that people sign is told of.
const soon = 14 * 24 * time.Hour

// warn tells of what will have to be renewed.
func (h *Host) warn(all []ceremony.Status, now time.Time) error {
	for _, s := range all {
		if s.Role == roles.Snapshot || s.Role == roles.Timestamp || s.Version == 0 {
			continue
		}
		if s.Expires.Before(now.Add(soon)) {
			fmt.Fprintf(h.Err, "%s is good until %s: renew it (katabuild roles renew)\n", s.Role,
				s.Expires.Format(time.RFC3339))
		}
	}
	return nil
}

func (h *Host) rolesDelegateCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "delegate DIR ROLE --to KEY.pub...", Args: cobra.ExactArgs(2),
		Short: "give channels to a role of its own, with its own keys",
		Long: `delegate drafts that a role of its own lists the releases of a channel, which is called like the role
unless --channel says otherwise. Targets signs that; the role's keys sign its own list, which is empty at first. What
targets itself lists of the channel stays offered.`,
		Example: "  katabuild roles delegate roles testing --to erin.key.pub",
	}
	fl := c.Flags()
	to := parties(fl, "to", "gets the role")
	channels := fl.StringArray("channel", nil, "a channel (repeatable; default: the one that is called like the role)")
	threshold := fl.Int("threshold", 0, "how many of the keys must sign (default: more than half)")
	when := h.life(fl)
	c.RunE = func(c *cobra.Command, args []string) error {
		k, err := named(*to)
		if err != nil {
			return err
		}
		if len(*channels) == 0 {
			*channels = []string{args[1]}
		}
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			return r.Delegate(args[1], *channels, ceremony.Party{Keys: k, Threshold: *threshold}, when())
		})
	}
	return c
}

func (h *Host) rolesRotateCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate DIR ROLE [--off NAME]... [--on KEY.pub]... [--threshold N]", Args: cobra.ExactArgs(2),
		Short: "give a role other keys",
		Long: `rotate drafts that keys lose a role and others get it: the next root for the four roles that root knows,
the next list of targets for the others; and, where the role is a list of releases, its next version, for its new keys
to sign. A key is named as "roles show" has it. Hosts follow by themselves.`,
		Example: "  katabuild roles rotate roles root --off alice --on alice2.key.pub\n" +
			"  katabuild roles rotate roles targets --on frank.key.pub --threshold 2",
	}
	fl := c.Flags()
	off := fl.StringArray("off", nil, "`name` of a key that loses the role (repeatable)")
	on := parties(fl, "on", "gets the role")
	threshold := fl.Int("threshold", 0, "how many of the keys must sign then (default: as before)")
	when := h.life(fl)
	c.RunE = func(c *cobra.Command, args []string) error {
		k, err := named(*on)
		if err != nil {
			return err
		}
		if len(*off)+len(k)+*threshold == 0 {
			return &usage.Error{Err: errors.New("say what changes, with --off, --on or --threshold")}
		}
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			return r.Rotate(args[1], ceremony.Rotation{Off: *off, On: k, Threshold: *threshold}, when())
		})
	}
	return c
}

func (h *Host) rolesRevokeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "revoke DIR NAME", Args: cobra.ExactArgs(2),
		Short: "take every role from a key, such as one that has leaked",
		Long: `revoke drafts that a key loses every role that it has. A role that would be left with fewer keys than
must sign is not touched: give it another key with "roles rotate" first.`,
		Example: "  katabuild roles revoke roles carol",
	}
	when := h.life(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		return h.changed(c.Context(), args[0], func(r *ceremony.Repository) error {
			lost, err := r.Revoke(args[1], when())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(h.Out, "%s: loses %s\n", args[1], strings.Join(lost, ", "))
			return err
		})
	}
	return c
}

func (h *Host) rolesPublishCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "publish FROM TO", Args: cobra.ExactArgs(2), Short: "copy metadata to where clients read it",
		Long: `publish copies what clients need, and no drafts, from a folder, a web server or a registry to another
folder, which any web server can serve, or to a registry. What clients ask for first comes last.`,
		Example: "  katabuild roles publish roles /srv/www/roles\n" +
			"  katabuild roles publish roles oci:registry.example/guests:roles",
	}
	access := h.Registries(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := access()
		if err != nil {
			return err
		}
		s, err := collect(c.Context(), args[0], a)
		if err != nil {
			return err
		}
		if err := place.PublishRoles(c.Context(), s, args[1], a); err != nil {
			return err
		}
		_, err = fmt.Fprintf(h.Out, "%s: %d files of metadata\n", args[1], len(s.Files))
		return err
	}
	return c
}

// collect is what clients need of a place with metadata.
func collect(ctx context.Context, name string, a registry.Access) (*roles.Set, error) {
	from, err := place.OpenRoles(ctx, name, a)
	if err != nil {
		return nil, err
	}
	s, err := roles.Collect(ctx, from)
	return s, errors.Join(err, from.Close())
}

// set is the same as a document.
func (h *Host) set(ctx context.Context, name string, access func() (registry.Access, error)) ([]byte, error) {
	a, err := access()
	if err != nil {
		return nil, err
	}
	s, err := collect(ctx, name, a)
	if err != nil {
		return nil, err
	}
	return s.Encode()
}

func (h *Host) rolesShowCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "show DIR", Args: cobra.ExactArgs(1),
		Short: "show roles, their keys, what they list, and what drafts wait for",
		Long: `show prints each role with its version, until when it is good, and which keys it has; the releases that
are offered; and each draft: what it changes, who has signed it, and who is missing.`,
		Example: "  katabuild roles show roles",
	}
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		r, err := ceremony.Open(c.Context(), args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		return errors.Join(h.showRoles(r.Status(), h.Now()), h.showDrafts(r.Status()))
	}
	return c
}

func (h *Host) showRoles(all []ceremony.Status, now time.Time) error {
	w := tabwriter.NewWriter(h.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ROLE\tVERSION\tGOOD UNTIL\tMUST SIGN\tFOR")
	for _, s := range all {
		version, until := "-", "-"
		if s.Version > 0 {
			version, until = strconv.FormatInt(s.Version, 10), s.Expires.Format(time.RFC3339)
		}
		if s.Version > 0 && !s.Expires.After(now) {
			until += " (expired)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d of %s\t%s\n", s.Role, version, until, s.Threshold, strings.Join(s.Keys, ", "),
			orDash(strings.Join(s.Channels, ", ")))
	}
	for _, s := range all {
		for _, release := range s.Releases {
			fmt.Fprintf(w, "%s offers %s\n", s.Role, release)
		}
		if s.Problem != "" && s.Draft == nil {
			fmt.Fprintf(w, "%s: %s\n", s.Role, s.Problem)
		}
	}
	return w.Flush()
}

func (h *Host) showDrafts(all []ceremony.Status) error {
	for _, s := range all {
		d := s.Draft
		if d == nil {
			continue
		}
		text := fmt.Sprintf("draft of %s %d, good until %s", s.Role, d.Version, d.Expires.Format(time.RFC3339))
		var changes []string
		for _, r := range d.Add {
			changes = append(changes, "+"+r)
		}
		for _, r := range d.Drop {
			changes = append(changes, "-"+r)
		}
		if changes = append(changes, d.Keys...); len(changes) > 0 {
			text += ": " + strings.Join(changes, ", ")
		}
		for _, n := range d.Needs {
			text += fmt.Sprintf("\n  %d of %d signatures", len(n.Signed), n.Threshold)
			if len(n.Signed) > 0 {
				text += ", by " + strings.Join(n.Signed, ", ")
			}
			if len(n.Signed) < n.Threshold {
				text += "; missing: " + strings.Join(n.Missing, ", ")
			}
		}
		if _, err := fmt.Fprintln(h.Out, text); err != nil {
			return err
		}
	}
	return nil
}
