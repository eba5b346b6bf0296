// Package look has katabuild's commands that look inside of guests, images, initrds and kernels.
package look

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/inspect"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
)

// commands is what they share.
type commands struct {
	out, err io.Writer
	differs  error // what diff ends with, when something does
}

// Commands makes them. They print to out, and to errs what extract leaves out; diff ends with the error differs when
// something does.
func Commands(out, errs io.Writer, differs error) []*cobra.Command {
	c := &commands{out: out, err: errs, differs: differs}
	return []*cobra.Command{c.inspectCmd(), c.lsCmd(), c.catCmd(), c.extractCmd(), c.diffCmd(), c.explainCmd()}
}

// splitTarget parts FILE:/path. A file whose own name has a colon is given with a path, too.
func splitTarget(arg string) (file, inside string) {
	if i := strings.Index(arg, ":/"); i >= 0 {
		return arg[:i], arg[i+1:]
	}
	return arg, "/"
}

// openArtifact opens a file, or what holds the files of a guest's folder.
func (c *commands) openArtifact(name string) (*inspect.Artifact, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		m, _, err := manifest.Read(name, "")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is a folder without a %s; name a guest's folder, or a file", name, manifest.Name)
		}
		if err != nil {
			return nil, err
		}
		name = filepath.Join(name, filepath.FromSlash(inspect.RootFile(m)))
	}
	return inspect.Open(name, os.TempDir())
}

// withTree opens what has files.
func (c *commands) withTree(arg string, f func(t *inspect.Artifact, inside string) error) (err error) {
	name, inside := splitTarget(arg)
	t, err := c.openArtifact(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	if t.Tree == nil {
		return fmt.Errorf("%s is a %s and holds no files; see: katabuild inspect %s", name, t.Kind, name)
	}
	return f(t, inside)
}

func (x *commands) inspectCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "inspect FILE|GUEST", Args: cobra.ExactArgs(1), Short: "say what an image, initrd or kernel is",
		Long: `inspect reads a disk image (partitions, file systems, hash tree), an initrd or a kernel (release,
build-id, the configuration inside), without mounting or booting it. Of a guest's folder it says what manifest.json
has (kernel, agent, root, boot, files and their sizes), the features that the kernel's configuration has all options
of, and what the image or initrd is. It checks no digests; "katabuild verify" does.`,
		Example: "  katabuild inspect out/default\n  katabuild inspect out/default/vmlinux",
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(_ *cobra.Command, args []string) (err error) {
		g, err := readWhole(args[0])
		if err != nil {
			return err
		}
		t, err := x.openArtifact(args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		if asJSON {
			e := json.NewEncoder(x.out)
			e.SetIndent("", "  ")
			if g != nil {
				g.Artifact = t
				return e.Encode(g)
			}
			return e.Encode(t)
		}
		if g != nil {
			if err := x.printWhole(g); err != nil {
				return err
			}
		}
		return x.printArtifact(t)
	}
	return c
}

// whole is a guest's folder, and the file that holds its root.
type whole struct {
	*inspect.Artifact
	Guest    *manifest.Manifest `json:"guest"`
	Manifest digest.Digest      `json:"manifest"`
	Features []string           `json:"features"`
}

// readWhole reads the manifest and the kernel's configuration of a guest's folder. Of a file it is nil.
func readWhole(name string) (*whole, error) {
	if fi, err := os.Stat(name); err != nil || !fi.IsDir() {
		return nil, err
	}
	m, d, err := manifest.Read(name, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // openArtifact tells it
	}
	if err != nil {
		return nil, err
	}
	path := filepath.Join(name, filepath.FromSlash(m.Kernel.Config.Path))
	config, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	names, err := builder.FeaturesOf(m.Arch, path, config)
	if err != nil {
		return nil, err
	}
	return &whole{Guest: m, Manifest: d, Features: names}, nil
}

func (c *commands) printWhole(g *whole) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	row := func(key string, values ...any) {
		fmt.Fprintf(w, "%s\t%s\n", key, strings.TrimSpace(fmt.Sprintln(values...)))
	}
	m := g.Guest
	row("guest", m.Name, m.Arch, "of", time.Unix(m.Time, 0).UTC().Format(time.RFC3339))
	row("manifest", g.Manifest)
	row("kernel", m.Kernel.Release, "from", m.Kernel.Source.Kind, m.Kernel.Source.Name, m.Kernel.Source.Version)
	row("build-id", m.Kernel.BuildID)
	row("features", strings.Join(g.Features, " "))
	row("agent", m.Agent.Path, m.Agent.Digest, "by", m.Agent.Go)
	row("PID 1", m.Agent.Init)
	root := m.Root.Kind
	if m.Root.FileSystem != "" {
		root += ", " + m.Root.FileSystem
	}
	if m.Root.VerityRootHash != "" {
		root += ", dm-verity " + m.Root.VerityRootHash
	}
	row("root", root)
	row("boot", m.Boot.Machine+",", m.Boot.CPUs, "CPUs,", m.Boot.MemoryMiB, "MiB", m.Boot.Disk)
	row("command line", m.Boot.CommandLine)
	row("  under TCG", m.Boot.TCGCommandLine)
	total := int64(0)
	for _, f := range m.Files() {
		row("file", fmt.Sprintf("%d bytes", f.Size), f.Path)
		total += f.Size
	}
	row("in all", total, "bytes")
	fmt.Fprintln(w)
	return w.Flush()
}

func (c *commands) printArtifact(t *inspect.Artifact) error {
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	row := func(key string, values ...any) {
		fmt.Fprintf(w, "%s\t%s\n", key, strings.TrimSpace(fmt.Sprintln(values...)))
	}
	row("file", t.Path)
	row("kind", t.Kind)
	row("size", t.Size, "bytes")
	row("digest", t.Digest)
	switch {
	case t.Kernel != nil:
		row("form", t.Kernel.Form)
		row("release", t.Kernel.Release)
		row("version", t.Kernel.Version)
		row("build-id", t.Kernel.BuildID)
		row("PVH entry", t.Kernel.PVH)
		row("config", t.Kernel.ConfigDigest, fmt.Sprintf("(%d options are on)", strings.Count(string(t.Kernel.Config),
			"=y\n")))
	case t.Initrd != nil:
		row("compression", t.Initrd.Compression)
		row("entries", t.Initrd.Entries)
	case t.Image != nil:
		row("layout", t.Image.Layout, t.Image.ID)
		for _, p := range t.Image.Partitions {
			name := "whole disk"
			if p.Number > 0 {
				name = fmt.Sprintf("partition %d", p.Number)
			}
			row(name, fmt.Sprintf("%d bytes at %d", p.Size, p.Offset), p.Name, p.Type, p.UUID, p.Holds)
			if f := p.FileSystem; f != nil {
				row("", f.Kind, f.UUID, fmt.Sprintf("%q", f.Label), fmt.Sprintf("%d bytes", f.Size),
					strings.Join(f.Features, " "))
			}
		}
	}
	return w.Flush()
}

func (x *commands) lsCmd() *cobra.Command {
	var long, recursive bool
	c := &cobra.Command{
		Use: "ls FILE|GUEST[:/PATH]", Args: cobra.ExactArgs(1), Short: "list files in an image or initrd",
		Example: "  katabuild ls -l out/default:/usr/bin",
	}
	c.Flags().BoolVarP(&long, "long", "l", false, "also modes, owners, sizes, times and attributes")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "also what is in folders")
	c.RunE = func(_ *cobra.Command, args []string) error {
		return x.withTree(args[0], func(t *inspect.Artifact, inside string) error {
			w := tabwriter.NewWriter(x.out, 0, 0, 2, ' ', tabwriter.AlignRight)
			err := inspect.List(t.Tree, inside, recursive, func(e inspect.Entry) {
				name := quoteName(e.Name)
				if !long {
					fmt.Fprintln(x.out, name)
					return
				}
				if e.Target != "" {
					name += " -> " + quoteName(e.Target)
				}
				when := time.Unix(e.Time.Sec, int64(e.Time.Nsec)).UTC().Format("2006-01-02 15:04:05")
				fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t %s %s\n", e.Mode, e.Links, e.UID, e.GID, e.Size, when, name,
					strings.Join(e.Attributes, " "))
			})
			return errors.Join(err, w.Flush())
		})
	}
	return c
}

// quoteName keeps a name with line breaks or escape sequences from doing anything to a terminal.
func quoteName(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}

func (x *commands) catCmd() *cobra.Command {
	return &cobra.Command{
		Use: "cat FILE|GUEST:/PATH", Args: cobra.ExactArgs(1), Short: "print a file in an image or initrd",
		Example: "  katabuild cat out/default:/etc/os-release",
		RunE: func(_ *cobra.Command, args []string) error {
			return x.withTree(args[0], func(t *inspect.Artifact, inside string) error {
				return inspect.Cat(t.Tree,
					inside, x.out)
			})
		},
	}
}

func (x *commands) extractCmd() *cobra.Command {
	var o inspect.ExtractOptions
	most := "16GiB"
	c := &cobra.Command{
		Use: "extract FILE|GUEST[:/PATH] TO", Args: cobra.ExactArgs(2),
		Short: "copy a file or folder out of an image or initrd",
		Long: `extract writes a file, or a folder with all it holds, to TO, which must not be there yet; a folder gets
mode 0700. Nothing is written outside TO, whatever links the image holds, and holes stay holes. Owners are kept only
for root, extended attributes for nobody. Set-id bits and devices are left out unless --special asks for them.`,
		Example: "  katabuild extract out/default:/etc etc",
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Max, err = parseSize(most); err != nil {
				return fmt.Errorf("--max: %w", err)
			}
			return x.withTree(args[0], func(t *inspect.Artifact, inside string) error {
				leftOut, err := inspect.Extract(c.Context(), t.Tree, inside, args[1], o)
				for i, l := range leftOut {
					if i == maxLeftOut {
						fmt.Fprintf(x.err, "left out: and %d more\n", len(leftOut)-i)
						break
					}
					fmt.Fprintf(x.err, "left out: %s of %s\n", l.What, quoteName(l.Path))
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&o.Special, "special", false, "keep set-id bits, and make devices (as root)")
	c.Flags().StringVar(&most, "max", most, "write no more than this, holes not counted: a number and MiB or GiB")
	return c
}

// parseSize reads a number with MiB or GiB behind it, in bytes.
func parseSize(s string) (int64, error) {
	shift := 20
	digits, ok := strings.CutSuffix(s, "MiB")
	if !ok {
		shift = 30
		digits, ok = strings.CutSuffix(s, "GiB")
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 1 || n > 1<<20 {
		return 0, fmt.Errorf("%q: want a number from 1 to 1048576 and MiB or GiB, such as 16GiB", s)
	}
	return n << shift, nil
}

// maxLeftOut is how many files are named that extract left something out of.
const maxLeftOut = 20

func (x *commands) diffCmd() *cobra.Command {
	var asJSON, times bool
	c := &cobra.Command{
		Use: "diff A B", Args: cobra.ExactArgs(2),
		Short: "say what differs between two guests, images, initrds or kernels",
		Long: `diff compares two guests' folders (command line, kernel options, packages, files), or two files of the
same kind. Its exit code is 0 when nothing differs and 3 when something does.`,
		Example: "  katabuild diff out/tiny out/default\n  katabuild diff a/vmlinux b/vmlinux",
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&times, "times", false, "also compare the times of files")
	c.RunE = func(c *cobra.Command, args []string) error {
		changes, err := x.diff(c.Context(), args[0], args[1], times)
		if err != nil {
			return err
		}
		if asJSON {
			if changes == nil {
				changes = []inspect.Change{}
			}
			e := json.NewEncoder(x.out)
			e.SetIndent("", "  ")
			if err := e.Encode(changes); err != nil {
				return err
			}
		} else {
			if err := PrintChanges(x.out, changes); err != nil {
				return err
			}
		}
		if len(changes) > 0 {
			return x.differs
		}
		return nil
	}
	return c
}

// PrintChanges prints a line for each: + for what only the second has, - for what only the first has, ~ for what both
// have otherwise.
func PrintChanges(out io.Writer, changes []inspect.Change) error {
	var errs []error
	for _, ch := range changes {
		var err error
		switch {
		case ch.From == "":
			_, err = fmt.Fprintf(out, "+ %s %s: %s\n", ch.What, quoteName(ch.Name), ch.To)
		case ch.To == "":
			_, err = fmt.Fprintf(out, "- %s %s: %s\n", ch.What, quoteName(ch.Name), ch.From)
		default:
			_, err = fmt.Fprintf(out, "~ %s %s: %s => %s\n", ch.What, quoteName(ch.Name), ch.From, ch.To)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *commands) diff(ctx context.Context, x, y string, times bool) (_ []inspect.Change, err error) {
	guest := func(p string) bool {
		_, err := os.Stat(path.Join(p, manifest.Name))
		return err == nil
	}
	if guest(x) && guest(y) {
		return inspect.Guests(ctx, x, y, os.TempDir(), times)
	}
	t, err := c.openArtifact(x)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	u, err := c.openArtifact(y)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	return inspect.Diff(ctx, t, u, times)
}

func (x *commands) explainCmd() *cobra.Command {
	var asJSON bool
	var size string
	c := &cobra.Command{
		Use: "explain GUEST|IMAGE[:/PATH]", Args: cobra.ExactArgs(1),
		Short: "say which package or layer put a file there, and what needs it",
		Long: `explain looks up a file, or all below a folder, in the bill of materials beside an image: the package
or layer it came from, that one's licence, and which others depend on it. With --size it draws what takes how much
room, as an SVG file.`,
		Example: "  katabuild explain out/default:/usr/bin/bash\n  katabuild explain out/default --size size.svg",
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&size, "size", "", "draw a treemap of what is below the path into this SVG file")
	c.RunE = func(_ *cobra.Command, args []string) error {
		return x.withTree(args[0], func(t *inspect.Artifact, inside string) error {
			if size != "" {
				return atomicfile.With(size, 0o644, func(w io.Writer) error {
					return inspect.Treemap(w, t.Tree,
						inside)
				})
			}
			e, err := t.Explain(inside)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(x.out)
				enc.SetIndent("", "  ")
				return enc.Encode(e)
			}
			fmt.Fprintf(x.out, "%s is a %s of %d bytes", quoteName(e.Path), e.Kind, e.Size)
			if e.Real != "" {
				fmt.Fprintf(x.out, " (%s)", quoteName(e.Real))
			}
			fmt.Fprintln(x.out)
			w := tabwriter.NewWriter(x.out, 0, 0, 2, ' ', 0)
			for _, s := range e.By {
				fmt.Fprintf(w, "  %d bytes\t%s %s\n", s.Size, s.Name, s.Version)
				if len(e.By) > 1 {
					continue // of a folder, an overview
				}
				if s.License != "" {
					fmt.Fprintf(w, "  licence\t%s\n", s.License)
				}
				if len(s.NeededBy) > 0 {
					fmt.Fprintf(w, "  needed by\t%s\n", strings.Join(s.NeededBy, ", "))
				}
			}
			return w.Flush()
		})
	}
	return c
}
