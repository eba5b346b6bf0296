package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/internal/pty"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/internal/usage"
)

func (h *Host) editCmd(editor string) *cobra.Command {
	var output string
	var write bool
	c := &cobra.Command{
		Use: editor + " [RECIPE]", Args: cobra.MaximumNArgs(1),
		Short: "edit a kernel's options in the kernel's own " + editor,
		Long: editor + ` shows the configuration of a recipe's kernel, features and fragments merged, in the kernel's
own editor. When you leave it and save, what you changed is written as a fragment beside the recipe, with a line
"# reason: " above each group for you to fill. An option that a feature decides otherwise needs kernel.override: the
lines for the recipe are printed. In the end the configurator makes a configuration with all of it, and what is
otherwise than you left it is listed.

--write names the fragment in the recipe; without it the line is printed. Either way "katabuild lock" follows. The
editor is compiled in the jail, with the ncurses of the recipe's tool-chain: of the tool-chain of packages it is a part;
with --toolchain host, install libncurses-dev.`,
		Example: "  katabuild kernel " + editor + " recipes/minimal --write",
	}
	open := h.Flags(c.Flags())
	c.Flags().StringVarP(&output, "output", "o", "my.config", "`file` for the fragment, by its path from the recipe")
	c.Flags().BoolVar(&write, "write", false, "name the fragment in the recipe")
	c.RunE = func(c *cobra.Command, args []string) error {
		if filepath.IsAbs(output) || output == "" {
			return &usage.Error{Err: fmt.Errorf("-o %q: want a path from the recipe's folder", output)}
		}
		if _, err := unix.IoctlGetTermios(int(h.In.Fd()), unix.TCGETS); err != nil {
			return fmt.Errorf(
				"%s needs a terminal, and standard input is none; \"katabuild kernel explain\" needs none",
				editor)
		}
		recipe := ""
		if len(args) > 0 {
			recipe = args[0]
		}
		g, end, err := open(c.Context(), recipe)
		if err != nil {
			return err
		}
		term := h.Getenv("TERM")
		if term == "" {
			term = "linux"
		}
		e, wrong := g.EditConfig(c.Context(), builder.Edit{Editor: editor, Fragment: output, Term: term,
			Terminfo: h.terminfo(term), Terminal: func(run func(*os.File) error) error {
				end()
				return h.withTerminal(run)
			}})
		end()
		if e == nil {
			return wrong
		}
		if len(e.Changes) == 0 {
			fmt.Fprintln(h.Out, "nothing was changed")
			return wrong
		}
		return errors.Join(wrong, h.printEdited(g, e, output, write))
	}
	return c
}

func (h *Host) printEdited(g *builder.Guest, e *builder.EditedConfig, output string, write bool) error {
	p := &printer{out: h.Out}
	for _, w := range e.Changes {
		p.line(0, "%s", w.Text())
	}
	for _, l := range e.Left {
		p.line(0, "otherwise: %s, you chose %s, it is %s: %s", l.Option, l.Want, l.Got, l.Why)
	}
	for _, l := range e.Elsewhere {
		p.line(0, "change it there: %s", l)
	}
	if write {
		changed, err := g.NameFragment(output)
		if err != nil {
			return err
		}
		if changed {
			p.line(0, "the recipe names %s now", output)
		}
	} else {
		p.line(0, "for the recipe:")
		p.line(1, "kernel:")
		p.line(2, "fragments: [%s]", output)
	}
	if len(e.Overrides) > 0 {
		p.line(0, "features decide these; write below kernel, with your reasons:")
		p.line(2, "override:")
		for _, o := range e.Overrides {
			p.line(3, "- %s", o)
		}
	}
	p.line(0, "then: fill in the reasons in %s, and run katabuild lock", output)
	return p.err
}

// maxTerminfo bounds an entry that is read, in bytes. term(5): at most 32,768.
const maxTerminfo = 32768

// terminfo finds what this machine knows of a kind of terminal. terminfo(5).
func (h *Host) terminfo(term string) []byte {
	if term != filepath.Base(term) {
		return nil
	}
	folders := []string{"/etc/terminfo", "/lib/terminfo", "/usr/lib/terminfo", "/usr/share/terminfo"}
	if own := h.Getenv("TERMINFO"); own != "" {
		folders = append([]string{own}, folders...)
	}
	for _, dir := range folders {
		if data, err := regular.ReadFile(filepath.Join(dir, term[:1], term), maxTerminfo); err == nil {
			return data
		}
	}
	return nil
}

// withTerminal puts a pseudo-terminal between the user's and a program, so that the program cannot type into the
// user's, and a key that interrupts reaches the program alone.
func (h *Host) withTerminal(run func(tty *os.File) error) (err error) {
	size := pty.VT100()
	if now, err := unix.IoctlGetWinsize(int(h.In.Fd()), unix.TIOCGWINSZ); err == nil && now.Row > 0 {
		size = *now
	}
	master, tty, err := pty.Open(size)
	if err != nil {
		return err
	}
	restore, _, err := pty.MakeRaw(h.In)
	if err != nil {
		return errors.Join(err, tty.Close(), master.Close())
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-ended:
				return
			case <-resized:
				if now, err := unix.IoctlGetWinsize(int(h.In.Fd()), unix.TIOCGWINSZ); err == nil {
					// A size that cannot be told is the old one.
					_ = unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, now)
				}
			}
		}
	}()
	go io.Copy(master, h.In) // it ends with this process at the latest, which does not read its input again
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		io.Copy(h.Out, master) // until the last program has let go of the other end
	}()
	err = run(tty)
	signal.Stop(resized)
	close(ended)
	err = errors.Join(err, tty.Close())
	<-drained
	return errors.Join(err, restore(), master.Close())
}
