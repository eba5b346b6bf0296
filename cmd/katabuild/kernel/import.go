package kernel

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/usage"
)

func (h *Host) importCmd() *cobra.Command {
	var asJSON, all bool
	var form, output string
	c := &cobra.Command{
		Use: "import CONFIG... RECIPE", Args: cobra.MinimumNArgs(2),
		Short: "turn somebody else's configuration into features and a fragment",
		Long: `import takes a foreign configuration to the kernel of a recipe: it completes it in the recipe's own
kernel source, finds the features that it has whole, and writes what remains as a fragment, a line for each option that
can be asked for by name. The result is checked: the kernel's own configurator makes a configuration of features and
fragment, and what is otherwise is listed with the reason.

CONFIG is one or more files or folders, later ones win. What is left out of them depends on their form:

  config       nothing: a generated .config
  defconfig    what has its default: what "make savedefconfig" writes; a single file that is not generated
  fragments    what shall be off: several files, or a folder of *.conf and *.config, such as Kata Containers'; of one
               with a folder common, that and the architecture's, without files whose first line says !ARCH

--form says it where the guess is wrong. The recipe is not changed; the lines for it are printed. -o names the file for
the fragment; a bare name lies beside the recipe. Without -o nothing is written.`,
		Example: "  katabuild kernel import fragments/ recipes/default -o kata.config\n" +
			"  katabuild kernel import /boot/config-6.1.0-40-amd64 recipes/default",
	}
	open := h.Flags(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&all, "all", false, "print all of long lists")
	c.Flags().StringVar(&form, "form", "", "what CONFIG leaves out: "+strings.Join(builder.ConfigForms(), ", "))
	c.Flags().StringVarP(&output, "output", "o", "", "`file` for the fragment; a bare name lies beside the recipe")
	c.RunE = func(c *cobra.Command, args []string) error {
		if form != "" && !slices.Contains(builder.ConfigForms(), form) {
			return &usage.Error{Err: fmt.Errorf("--form %q: want one of %s", form, strings.Join(builder.ConfigForms(),
				", "))}
		}
		files, name := args[:len(args)-1], args[len(args)-1]
		g, end, err := open(c.Context(), name)
		if err != nil {
			return err
		}
		im, wrong := g.ImportConfig(c.Context(), files, form)
		end()
		if im == nil {
			return wrong
		}
		if output != "" {
			path := beside(name, output)
			if err := atomicfile.With(path, 0o644, func(w io.Writer) error {
				_, err := w.Write(im.Fragment)
				return err
			}); err != nil {
				return errors.Join(wrong, err)
			}
		}
		if asJSON {
			err = h.json(im)
		} else {
			err = printImported(h.Out, im, output, all)
		}
		return errors.Join(wrong, err)
	}
	return c
}

// beside is where a file lies that is named for a recipe: beside it, unless the name has a folder.
func beside(name, file string) string {
	if filepath.Base(file) != file {
		return file
	}
	return filepath.Join(filepath.Dir(recipe.Find(name)), file)
}

// mostLines is how much is printed of a long list, unless all is asked for.
const mostLines = 15

func printImported(out io.Writer, im *builder.Imported, output string, all bool) error {
	p := &printer{out: out}
	list := func(title string, n int, line func(i int)) {
		if n == 0 {
			return
		}
		p.line(0, title, n)
		for i := range n {
			if i == mostLines && !all {
				p.line(1, "and %d more (--all lists them)", n-i)
				break
			}
			line(i)
		}
	}
	p.line(0, "taken as: %s", im.Form)
	list("%d lines are otherwise in Linux "+im.Version+":", len(im.Dropped), func(i int) {
		d := im.Dropped[i]
		p.line(1, "%s:%d: %s is %s: %s", d.File, d.At, d.Line, d.Got, d.Why)
	})
	list("%d features come near:", len(im.Near), func(i int) {
		n := im.Near[i]
		without := ""
		if len(n.Without) > 0 {
			without = ", but too little of what it requires: " + strings.Join(n.Without, ", ")
		}
		p.line(1, "%s: %d of %d%s", n.Feature, n.Has, n.Of, without)
		for _, c := range n.Lacks[:min(len(n.Lacks), 4)] {
			p.line(2, "%s is %s, the feature wants %s", c.Option, c.B, c.A)
		}
		if len(n.Lacks) > 4 {
			p.line(2, "and %d more", len(n.Lacks)-4)
		}
	})
	list("the recipe's features have otherwise, in %d groups:", len(im.Against.Groups), func(i int) {
		g := im.Against.Groups[i]
		add, drop := 0, 0
		for _, c := range g.Changes {
			if c.B == "n" {
				add++
			} else {
				drop++
			}
		}
		p.line(1, "%s: adds %d, drops or changes %d", g.Feature, add, drop)
		if all {
			for _, c := range g.Changes {
				p.change(c)
			}
		}
	})
	list("of no feature, %d options differ from the recipe's kernel:", len(im.Against.Rest), func(i int) {
		p.change(im.Against.Rest[i])
	})
	list("%d options are left otherwise than there:", len(im.Left), func(i int) {
		l := im.Left[i]
		p.line(1, "%s is %s there and %s here: %s", l.Option, l.Want, l.Got, l.Why)
	})
	p.line(0, "for the recipe:")
	p.line(1, "kernel:")
	p.line(2, "features: [%s]", strings.Join(im.Features, ", "))
	if output == "" {
		p.line(2, "fragments: [...] # %d lines; -o FILE writes them", im.Lines)
	} else {
		p.line(2, "fragments: [%s] # %d lines", filepath.Base(output), im.Lines)
	}
	for i, o := range im.Overrides {
		if i == 0 {
			p.line(2, "override:")
		}
		p.line(3, "- %s", o)
	}
	return p.err
}
