// Package release has katabuild's commands that make releases of guests and look at them.
package release

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/dsse"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/provenance"
	"github.com/katabuild/katabuild/runtime/attest"
)

// Host is what the commands need of the program that they are a part of.
type Host struct {
	Out, Err io.Writer
	// Version and Commit are those of katabuild; the commit may be empty.
	Version, Commit string
	// HostKey is this host's own key, of the kind Ed25519.
	HostKey func() (crypto.Signer, error)
	// Policies are the files in which a policy is looked for, the first first.
	Policies []string
	Getenv   func(string) string
	// Registries adds the flags about registries, and returns what they say once they are read.
	Registries func(*pflag.FlagSet) func() (registry.Access, error)
	Terminal   bool // Err is one
	// Installed is the folder of installed releases, of whose parts others can be made; empty is none.
	Installed string
	// Store opens the builder's store, for the sources of guests.
	Store func() (*store.Store, error)
	Now   func() time.Time
}

// Commands makes them.
func (h *Host) Commands() []*cobra.Command {
	return []*cobra.Command{h.releaseCmd(), h.listCmd(), h.signCmd(), h.keysCmd(), h.pushCmd(),
		h.pullCmd(), h.copyCmd(), h.rolesCmd(), h.nodeImageCmd()}
}

// releaseFlags are what a user may say about a release.
type releaseFlags struct {
	out, version, channel, notes, builder, programs string
	locks                                           []string
	sources                                         bool
}

func (h *Host) releaseCmd() *cobra.Command {
	var f releaseFlags
	c := &cobra.Command{
		Use: "release [VARIANT=]GUEST... --version VERSION -o DIR", Args: cobra.MinimumNArgs(1),
		Short: "make a release of guests that have booted: a folder that any web server can serve",
		Long: `release puts guests (folders made by "katabuild build") into the folder of a release: index.json, which
names every file by digest and size, and the files themselves below blobs/. Each guest comes with its bills of
materials, a statement of how it was made (SLSA provenance in an in-toto statement), the report and the verdict of
its boot, and what somebody who measures it must find.

A guest that has not booted to "attested", with these very bytes, is refused: "katabuild boot GUEST" leaves report and
verdict beside it. The guest's lock is taken from guest.lock.json beside its manifest, or named with --lock.

It is signed with this host's own key, which says no more than where it was made; "katabuild sign" adds signatures
that others know. Guests of several architectures make one release. A VARIANT tells guests of one name apart.

With --programs the release has the programs that build and run guests, too. With --with-sources it has the packages,
kernel sources and layers that its guests were made of: "katabuild fetch RECIPE --sources RELEASE" takes them from
there when Debian's mirrors have dropped them.`,
		Example: `  katabuild release out/default --version 1.4.0 -o out/release
  katabuild release out/default debug=out/debug --version 1.4.0 --channel testing --notes notes -o out/release
  katabuild release out/default --version 1.4.0 --programs dist/programs --with-sources -o out/release`,
	}
	fl := c.Flags()
	fl.StringVarP(&f.out, "out", "o", "", "the `folder` of the release; made where it is not there")
	fl.StringVar(&f.version, "version", "", "version of the guests: MAJOR.MINOR.PATCH, as semver.org has it")
	fl.StringVar(&f.channel, "channel", "stable", "for whom the release is; policies name the channels they take")
	fl.StringVar(&f.notes, "notes", "", "`folder` of release notes, *.md, which become one, or one such file")
	fl.StringArrayVar(&f.locks, "lock", nil,
		"a `file`, the lock of one of the guests; which one says its digest (repeatable)")
	fl.StringVar(&f.builder, "builder-id", "",
		"`URI` of who built, for the provenance (default one made of this host's key)")
	fl.StringVar(&f.programs, "programs", "",
		"`folder` with a folder of programs for each architecture, as make dist leaves them")
	fl.BoolVar(&f.sources, "with-sources", false, "put everything that the guests' locks name into the release, from "+
		"the store: whoever builds them again needs no archive")
	c.RunE = func(c *cobra.Command, args []string) error { return h.release(c.Context(), f, args) }
	return c
}

func (h *Host) release(ctx context.Context, f releaseFlags, args []string) (err error) {
	if f.out == "" || f.version == "" {
		return &usage.Error{Err: errors.New("a release needs --version VERSION and -o DIR; see: katabuild release " +
			"--help")}
	}
	own, err := h.own()
	if err != nil {
		return err
	}
	if f.builder == "" {
		f.builder = "urn:katabuild:host:" + string(own.Public().ID)
	}
	to, err := folder.Create(ctx, f.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	cfg := assemble.Config{Version: f.version, Channel: f.channel, Notes: f.notes, Claims: claims, Sign: own,
		Origin: h.origin(f), Programs: f.programs}
	if f.sources {
		if cfg.Sources, err = h.sources(); err != nil {
			return err
		}
	}
	for _, arg := range args {
		cfg.Guests = append(cfg.Guests, parseGuest(arg))
	}
	data, err := assemble.Release(ctx, cfg, to)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(h.Out, "%s: a release of %d guests, index %s\n", f.out, len(args), digest.Of(data))
	return err
}

// parseGuest reads [VARIANT=]GUEST. A folder may have = in its name.
func parseGuest(arg string) assemble.Guest {
	if variant, dir, ok := strings.Cut(arg, "="); ok && index.CheckWord("variant", variant) == nil {
		return assemble.Guest{Dir: dir, Variant: variant}
	}
	return assemble.Guest{Dir: arg}
}

// claims compares a report that was kept with a manifest, as katabuild verify does.
func claims(m *manifest.Manifest, r *report.Report) []verdict.Claim {
	return attest.Report(m, r, attest.Boot{})
}

// maxLock bounds a lock, in bytes.
const maxLock = 16 << 20

// origin makes what says how guests were made.
func (h *Host) origin(f releaseFlags) func(assemble.Guest, *manifest.Manifest) (assemble.Origin, error) {
	return func(g assemble.Guest, m *manifest.Manifest) (assemble.Origin, error) {
		data, err := findLock(append([]string{filepath.Join(g.Dir, builder.LockBeside)}, f.locks...), m.Lock)
		if err != nil {
			return assemble.Origin{}, err
		}
		l, err := lock.Decode(data)
		if err != nil {
			return assemble.Origin{}, err
		}
		return assemble.Origin{Lock: data, Options: provenance.Options{Builder: f.builder, Katabuild: h.Version,
			Commit: h.Commit, Inputs: dependencies(l)}}, nil
	}
}

// findLock reads the file that has a digest.
func findLock(files []string, want digest.Digest) ([]byte, error) {
	for _, file := range files {
		data, err := regular.ReadFile(file, maxLock)
		if errors.Is(err, fs.ErrNotExist) && file == files[0] {
			continue
		}
		if err != nil {
			return nil, err
		}
		if digest.Of(data) == want {
			return data, nil
		}
	}
	return nil, fmt.Errorf("its lock, %s, is none of %s: build it again, or name it with --lock", want,
		strings.Join(files, ", "))
}

// dependencies are a lock's inputs as a statement has them.
func dependencies(l *lock.Lock) []provenance.Dependency {
	var out []provenance.Dependency
	for _, in := range l.Inputs {
		d := provenance.Dependency{Name: in.Name, Digest: provenance.SHA256(in.Digest),
			Annotations: map[string]string{"kind": in.Kind, "size": strconv.FormatInt(in.Size, 10)}}
		switch in.Kind {
		case lock.Tree:
			d.Digest = map[string]string{provenance.TreeDigest: in.Digest.Hex()}
		case lock.URL:
			d.URI = in.Where
		case lock.OCI:
			d.URI = "oci:" + in.Where
		}
		if p := in.Package; p != nil {
			// package-url's form for Debian's packages.
			d.URI = "pkg:deb/debian/" + p.Name + "@" + p.Version + "?arch=" + p.Arch
			d.Annotations["version"] = p.Version
		}
		out = append(out, d)
	}
	return out
}

func (h *Host) listCmd() *cobra.Command {
	var asJSON bool
	var asked string
	c := &cobra.Command{
		Use: "list PLACE", Args: cobra.ExactArgs(1), Short: "list the guests of a release",
		Long: `list shows the guests of a release: name, version, architecture, variant, how many files they have and
how big they are, by how many keys that have not signed the release itself each was reproduced, and with which keys it
is signed. It believes what the release says; "katabuild verify" checks it. With --policy it says whether a pull would
accept the release, and by whose signatures; one that would be refused ends it with exit code 3.

` + placesHelp,
		Example: "  katabuild list out/release\n  katabuild list oci:registry.example/guests:stable --json",
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the index as it is")
	c.Flags().StringVar(&asked, "policy", "", "`file` that says whose releases are accepted (default: none is asked)")
	access := h.Registries(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := access()
		if err != nil {
			return err
		}
		from, err := place.Open(c.Context(), args[0], a)
		if err != nil {
			return err
		}
		head, err := from.Index(c.Context())
		if err = errors.Join(err, from.Close()); err != nil {
			return err
		}
		x, err := index.Decode(head.Index)
		if err != nil {
			return err
		}
		var refused error
		var by []string
		if asked != "" {
			_, by, refused = h.acceptReproduced(c.Context(), asked, origin{args[0], a}, head)
		}
		if asJSON {
			_, err = h.Out.Write(head.Index)
			return errors.Join(err, refused)
		}
		if err := errors.Join(h.list(x, head), refused); err != nil || asked == "" {
			return err
		}
		_, err = fmt.Fprintf(h.Out, "accepted, signed by %s\n", strings.Join(by, ", "))
		return err
	}
	return c
}

func (h *Host) list(x *index.Index, head folder.Head) error {
	by, err := independent(head, x)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(h.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tARCH\tVARIANT\tFILES\tMB\tREPRODUCED\tMANIFEST")
	for _, g := range x.Guests {
		size := g.Manifest.Size
		for _, a := range g.Artefacts {
			size += a.Size
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%.1f\t%s\t%s\n", g.Name, g.Version, g.Arch, orDash(g.Variant),
			len(g.Artefacts), float64(size)/1e6, times(by[g.Manifest.Digest]), g.Manifest.Digest.Short())
	}
	for i := range x.Programs {
		p := &x.Programs[i]
		fmt.Fprintf(w, "%s\t%s\t%s\tprogram\t1\t%.1f\t-\t%s\n", p.Name, p.Version, p.Arch, float64(p.Size)/1e6,
			p.Digest.Short())
	}
	if len(x.Sources) > 0 {
		var size int64
		for _, b := range x.Sources {
			size += b.Size
		}
		fmt.Fprintf(w, "%d sources, %.1f MB\n", len(x.Sources), float64(size)/1e6)
	}
	fmt.Fprintf(w, "channel %s\n", x.Channel)
	if head.Envelope != nil {
		e, err := dsse.Decode(head.Envelope)
		if err != nil {
			return err
		}
		for _, s := range e.Signatures {
			fmt.Fprintf(w, "signed with %s\n", s.KeyID)
		}
	}
	if keys := allKeys(by); keys != "" {
		fmt.Fprintf(w, "reproduced with %s\n", keys)
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
