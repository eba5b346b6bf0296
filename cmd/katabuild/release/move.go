package release

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/accepted"
	"github.com/katabuild/katabuild/releases/chunks"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/reproduced"
	"github.com/katabuild/katabuild/releases/unpack"
)

// placesHelp is about the places of releases.
const placesHelp = `A place is ` + place.Forms + `.
Registries are reached with docker's and podman's logins, and by plain HTTP only on this host or where
--registry-insecure names them; a web server is only read. Without a TAG, latest is meant.`

func (h *Host) pushCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "push DIR PLACE", Args: cobra.ExactArgs(2),
		Short: "publish a release, once everything in it has been checked",
		Long: `push reads everything in a release's folder, checks that each document is about the guest that it lies
with, and publishes it. Only what is missing there moves. In a registry each guest is an artefact, to which its bills
of materials, its provenance and its boot report refer; one index has the guests of all architectures, and the
signatures refer to it. The tag moves last.

` + placesHelp,
		Example: "  katabuild push out/release oci:registry.example/guests:stable\n" +
			"  katabuild push out/release bundle:release.tar",
	}
	access := h.Registries(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error {
		return h.copy(c.Context(), access, args[0], args[1], func(from place.Source, _ registry.Access) place.Options {
			return place.Options{Accept: func(head folder.Head) error {
				x, err := index.Decode(head.Index)
				if err != nil {
					return err
				}
				if _, err := reproduced.By(head.Reproduced, head.Index, x); err != nil {
					return err
				}
				return judge.Contents(c.Context(), x, from, claims)
			}}
		})
	}
	return c
}

func (h *Host) copyCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "copy FROM TO", Args: cobra.ExactArgs(2),
		Short: "copy a release from place to place, such as to a file for hosts without a network",
		Long: `copy copies a release with its signatures. Every digest stays what it is, and each file is checked as it
is written. Nobody's signature is asked for, as that is for those who pull, unless --policy names whose count: then
nothing is copied that they have not signed. With --roles it brings the metadata of roles that offer it along, for hosts
without a network; a bundle or a folder that has some keeps it.

` + placesHelp,
		Example: "  katabuild copy oci:registry.example/guests:stable bundle:release.tar\n" +
			"  katabuild copy out/release bundle:release.tar --roles https://example.org/roles\n" +
			"  katabuild copy bundle:release.tar oci:mirror.example/guests:stable",
	}
	var o place.Options
	asked := c.Flags().String("policy", "", "`file` that says whose releases are copied (default: anybody's)")
	metadata := c.Flags().String("roles", "", "`place` of metadata of roles, as of \"katabuild roles publish\", that "+
		"a bundle or a folder is to bring along")
	access := h.Registries(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if *metadata != "" {
			if place.IsRemote(args[1]) && !place.IsBundle(args[1]) {
				return &usage.Error{Err: errors.New("--roles goes with a bundle or a folder; to a registry, " +
					"metadata goes with katabuild roles publish")}
			}
			if o.Roles, err = h.set(c.Context(), *metadata, access); err != nil {
				return err
			}
		}
		return h.copy(c.Context(), access, args[0], args[1], func(_ place.Source, a registry.Access) place.Options {
			if *asked != "" {
				o.Accept = func(head folder.Head) error {
					_, _, err := h.acceptReproduced(c.Context(), *asked, origin{args[0], a}, head)
					return err
				}
			}
			return o
		})
	}
	return c
}

// copy copies a release, and says what moved.
func (h *Host) copy(ctx context.Context, access func() (registry.Access, error), from, to string,
	how func(place.Source, registry.Access) place.Options) (err error) {
	a, err := access()
	if err != nil {
		return err
	}
	source, err := place.Open(ctx, from, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	sink, err := place.Create(ctx, to, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	o := how(source, a)
	done := h.progress(&o)
	r, err := place.Copy(ctx, source, sink, o)
	done()
	if err != nil {
		return err
	}
	return h.said(to, r)
}

func (h *Host) said(to string, r *place.Result) error {
	_, err := fmt.Fprintf(h.Out, "%s: %d guests; %d files and %d bytes moved, %d files were there\n", to,
		len(r.Index.Guests), r.Moved, r.Bytes, r.Kept)
	return err
}

// redraw is how often progress is shown.
const redraw = 200 * time.Millisecond

// progress shows on a terminal how much has moved. The function that it returns ends that.
func (h *Host) progress(o *place.Options) func() {
	if !h.Terminal {
		return func() {}
	}
	var mu sync.Mutex
	var last time.Time
	var shown bool
	o.Progress = func(moved, of int64) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < redraw || of == 0 {
			return
		}
		last, shown = time.Now(), true
		fmt.Fprintf(h.Err, "\r%3d%%  %.1f of %.1f MB\x1b[K", min(100, moved*100/of), float64(moved)/1e6,
			float64(of)/1e6)
	}
	return func() {
		if shown {
			fmt.Fprint(h.Err, "\r\x1b[K")
		}
	}
}

// pullFlags are what a user may say of a pull.
type pullFlags struct {
	policy, guests, programs, arch string
	seeds                          []string
}

func (h *Host) pullCmd() *cobra.Command {
	var f pullFlags
	c := &cobra.Command{
		Use: "pull PLACE DIR", Args: cobra.ExactArgs(2),
		Short: "take a release whose signatures a policy accepts into a folder",
		Long: `pull asks a policy before it reads anything else of a release: who has signed it, its channel, its
versions. Then it takes what is missing into a folder, checks each file by its digest and each document against the
others, and lets others see the release last. What breaks off goes on where it was. A release that is refused leaves
the folder's old release as it is, and ends the command with exit code 3 and the name of the reason.

A host remembers the highest version that it has pulled of each guest, and takes no lower one.

Of a disk, and of other big files, only those parts move that are in no older file of the folder, in no installed
release and in nothing that --seed names; each part is checked, and the whole file by its digest.

With --guests each guest also becomes a folder of its own, GUESTS/NAME-VERSION-ARCH, which "katabuild boot" boots; with
--programs each program of the release becomes a file, ARCH/NAME.

` + placesHelp,
		Example: "  katabuild pull oci:registry.example/guests:stable /srv/guests --policy release-policy.yaml\n" +
			"  katabuild pull bundle:release.tar /srv/guests --guests /srv/guests/ready --arch x86_64",
	}
	c.Flags().StringVar(&f.policy, "policy", "", PolicyHelp)
	c.Flags().StringVar(&f.guests, "guests", "", "`folder` below which each guest becomes a folder")
	c.Flags().StringVar(&f.programs, "programs", "", "`folder` into which each program goes, as ARCH/NAME")
	c.Flags().StringVar(&f.arch, "arch", "", "fail unless the release has guests for this architecture; with "+
		"--guests or --programs, only those")
	c.Flags().StringArrayVar(&f.seeds, "seed", nil, "`file`, or folder of files, of whose parts the release may be "+
		"made, beside DIR's own older release and what is installed here (repeatable)")
	access := h.Registries(c.Flags())
	c.RunE = func(c *cobra.Command, args []string) error { return h.pull(c.Context(), access, f, args[0], args[1]) }
	return c
}

func (h *Host) pull(ctx context.Context, access func() (registry.Access, error), f pullFlags,
	from, dir string) (err error) {
	a, err := access()
	if err != nil {
		return err
	}
	memory, err := h.memory()
	if err != nil {
		return err
	}
	source, err := place.Open(ctx, from, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	to, err := folder.Create(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	var by []string
	o := place.Options{
		Accept: func(head folder.Head) error {
			x, names, err := h.acceptReproduced(ctx, f.policy, origin{from, a}, head)
			if err != nil {
				return err
			}
			by = names
			return hasArch(x, f.arch)
		},
		// What others are to see is remembered before they do.
		Check: func(ctx context.Context, x *index.Index) error {
			if err := judge.Documents(ctx, x, to, claims); err != nil {
				return err
			}
			return accepted.Accept(ctx, memory, x)
		},
	}
	o.Seeds = h.seeds(ctx, to, f.seeds)
	done := h.progress(&o)
	r, err := place.Copy(ctx, source, to, o)
	done()
	if err != nil {
		return err
	}
	fmt.Fprintf(h.Out, "accepted, signed by %s\n", strings.Join(by, ", "))
	if err := h.said(dir, r); err != nil {
		return err
	}
	if f.guests != "" {
		if err := h.unpack(ctx, to, r.Index, f); err != nil {
			return err
		}
	}
	if f.programs == "" {
		return nil
	}
	for i := range r.Index.Programs {
		p := &r.Index.Programs[i]
		if f.arch != "" && p.Arch != f.arch {
			continue
		}
		path, err := unpack.Program(ctx, to, p, f.programs)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(h.Out, path); err != nil {
			return err
		}
	}
	return nil
}

// seeds are big files of this host that may share parts with a release: those of the older release in its folder, those
// that were named, and those of installed guests.
func (h *Host) seeds(ctx context.Context, in *folder.Folder, named []string) chunks.Seeds {
	var out chunks.Seeds
	for _, name := range named {
		out.AddBelow(name)
	}
	if head, err := in.Index(ctx); err == nil {
		if x, err := index.Decode(head.Index); err == nil {
			for _, b := range x.Blobs() {
				out.Add(filepath.Join(in.Dir(), folder.BlobName(b.Digest)))
			}
		}
	}
	if h.Installed != "" {
		files, _ := filepath.Glob(filepath.Join(h.Installed, "*", "guests", "*", "*")) // the pattern is a good one
		for _, f := range files {
			out.Add(f)
		}
	}
	return out
}

func (h *Host) unpack(ctx context.Context, from *folder.Folder, x *index.Index, f pullFlags) error {
	for i := range x.Guests {
		if f.arch != "" && x.Guests[i].Arch != f.arch {
			continue
		}
		dir, err := unpack.Guest(ctx, from, &x.Guests[i], f.guests)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(h.Out, dir); err != nil {
			return err
		}
	}
	return nil
}
