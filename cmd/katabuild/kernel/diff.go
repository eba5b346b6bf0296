package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/inspect"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/runtime/record"
)

func (h *Host) diffCmd() *cobra.Command {
	var asJSON, all bool
	c := &cobra.Command{
		Use: "diff A B", Args: cobra.ExactArgs(2),
		Short: "say which options two kernels have otherwise, by feature",
		Long: `diff compares the final configurations of two kernels: first the features that only one of them has
whole, then each feature's options that differ, with the reason why the feature wants them, then all others. A and B
are each one of

  a recipe              its folder or its file; the configuration is made, nothing is compiled
  a guest's folder      the configuration that manifest.json names
  a .config             a file, also compressed, such as /proc/config.gz; - is standard input
  a kernel              vmlinux, bzImage, Image or an EFI image with CONFIG_IKCONFIG, also compressed
  pod:ID                the guest that the running pod was booted from (as root)

Options that tell of the compiler or the architecture, and nothing of what a kernel can do, are only counted; --all
lists them. The exit code is 0 when nothing differs and 3 when something does.`,
		Example: "  katabuild kernel diff recipes/tiny recipes/default\n" +
			"  katabuild kernel diff out/default/bzImage /boot/config-6.1.0-40-amd64",
	}
	open := h.Flags(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&all, "all", false, "also list options that tell of the tool-chain and the architecture")
	c.RunE = func(c *cobra.Command, args []string) error {
		a, err := h.configOf(c.Context(), open, args[0])
		if err != nil {
			return err
		}
		b, err := h.configOf(c.Context(), open, args[1])
		if err != nil {
			return err
		}
		d, err := builder.CompareConfigs(a, b)
		if err != nil {
			return err
		}
		if asJSON {
			err = h.json(d)
		} else {
			err = printDifference(h.Out, args[0], args[1], d, all)
		}
		if err == nil && !d.Same() {
			err = h.Differs
		}
		return err
	}
	return c
}

// opener opens a recipe.
type opener = func(ctx context.Context, recipe string) (*builder.Guest, func(), error)

// maxFile bounds a kernel that is read, in bytes: a vmlinux with debugging information is no input.
const maxFile = 512 << 20

// podPrefix marks the name of a running pod.
const podPrefix = "pod:"

// configOf finds the configuration that an argument names.
func (h *Host) configOf(ctx context.Context, open opener, arg string) (builder.KernelConfig, error) {
	none := builder.KernelConfig{Name: arg}
	if id, ok := strings.CutPrefix(arg, podPrefix); ok {
		return podConfig(id)
	}
	if arg == "-" {
		data, err := io.ReadAll(io.LimitReader(h.In, maxFile))
		if err != nil {
			return none, err
		}
		return fileConfig("standard input", data)
	}
	if _, err := os.Stat(filepath.Join(arg, manifest.Name)); err == nil {
		return guestConfig(arg)
	}
	if fi, err := os.Stat(arg); err == nil && fi.IsDir() || filepath.Ext(arg) == filepath.Ext(recipe.FileName) {
		g, end, err := open(ctx, arg)
		if err != nil {
			return none, err
		}
		o, err := g.Options(ctx)
		end()
		if err != nil {
			return none, err
		}
		if o.Wrong != nil {
			return none, o.Wrong
		}
		return builder.KernelConfig{Name: arg, Data: o.Config, Arch: g.Recipe.Arch}, nil
	}
	data, err := regular.ReadFile(arg, maxFile)
	if err != nil {
		return none, err
	}
	return fileConfig(arg, data)
}

func fileConfig(name string, data []byte) (builder.KernelConfig, error) {
	config, err := inspect.KernelConfig(data)
	if err != nil {
		return builder.KernelConfig{}, fmt.Errorf("%s: %w", name, err)
	}
	return builder.KernelConfig{Name: name, Data: config}, nil
}

// guestConfig is the configuration that a guest's manifest names, checked against it.
func guestConfig(dir string) (builder.KernelConfig, error) {
	none := builder.KernelConfig{}
	m, _, err := manifest.Read(dir, "")
	if err != nil {
		return none, err
	}
	path := filepath.Join(dir, filepath.FromSlash(m.Kernel.Config.Path))
	data, err := regular.ReadFile(path, maxFile)
	if err != nil {
		return none, err
	}
	if got := digest.Of(data); got != m.Kernel.Config.Digest {
		return none, &digest.Mismatch{Name: path, Want: m.Kernel.Config.Digest, Got: got}
	}
	return builder.KernelConfig{Name: path, Data: data, Arch: m.Arch}, nil
}

// podConfig is that of the guest that a pod was booted from.
func podConfig(id string) (builder.KernelConfig, error) {
	none := builder.KernelConfig{}
	r, err := record.Read(record.Dirs{}, id)
	if errors.Is(err, fs.ErrNotExist) {
		return none, fmt.Errorf("no pod %s runs here; kata-runtime state lists them", id)
	}
	if err != nil {
		return none, err
	}
	if r.Guest == "" {
		return none, fmt.Errorf(
			"pod %s was booted from plain files without a manifest; name its kernel or its .config "+
				"instead", id)
	}
	return guestConfig(r.Guest)
}

func printDifference(out io.Writer, a, b string, d *builder.ConfigDifference, all bool) error {
	p := &printer{out: out}
	p.line(0, "a: %s", a)
	p.line(0, "b: %s", b)
	for _, only := range []struct {
		who   string
		names []string
	}{{"a", d.OnlyA}, {"b", d.OnlyB}} {
		if len(only.names) > 0 {
			p.line(0, "features that only %s has whole: %s", only.who, strings.Join(only.names, ", "))
		}
	}
	for _, g := range d.Groups {
		p.line(0, "feature %s", g.Feature)
		for _, c := range g.Changes {
			p.change(c)
		}
	}
	if len(d.Rest) > 0 {
		p.line(0, "of no feature")
	}
	for _, c := range d.Rest {
		p.change(c)
	}
	switch {
	case d.Same():
		p.line(0, "nothing differs")
	case len(d.Facts) > 0 && !all:
		p.line(0, "of tool-chain and architecture: %d more (--all lists them)", len(d.Facts))
	case len(d.Facts) > 0:
		p.line(0, "of tool-chain and architecture")
		for _, c := range d.Facts {
			p.change(c)
		}
	}
	return p.err
}

func (p *printer) change(c builder.ConfigChange) {
	text := fmt.Sprintf("%-44s %s => %s", c.Option, c.A, c.B)
	if c.Reason != "" {
		text += "  # " + c.Reason
	}
	p.line(1, "%s", text)
}
