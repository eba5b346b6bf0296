// Package doctor has the command that says what this host lacks.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/runtime/check"
)

// Host is what the command needs of the program that it is a part of.
type Host struct {
	Out    io.Writer
	Getenv func(string) string
	Store  func() (dir string, err error) // opens the store, and says where it is
	Agent  func(arch.Arch) string         // where the agent for an architecture should be
}

// Command makes it.
func (h *Host) Command() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Args: cobra.NoArgs, Short: "say what this host lacks, by package name, and what does not work " +
			"without it",
		Long: `doctor looks at everything katabuild may need on this host. A line for each:

  ok NAME: fact
  missing NAME: fact; without it: no WHAT; way out
  optional NAME: fact; way out        builds and boots work without it

It changes nothing. It ends with 1 when something is missing that a build or a boot needs. Whether pods can run is what
kata-runtime check says, in the same form.`,
		Example: `  katabuild doctor
  katabuild doctor --json`,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		found, err := h.diagnose(c.Context())
		if err != nil {
			return err
		}
		if asJSON {
			e := json.NewEncoder(h.Out)
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			err = e.Encode(found)
		} else {
			err = found.Print(h.Out, false)
		}
		if err != nil {
			return err
		}
		missing, packages := found.Missing(), found.Packages()
		if len(missing) == 0 {
			return nil
		}
		hint := ""
		if len(packages) > 0 {
			hint = "; on Debian: apt-get install " + strings.Join(packages, " ")
		}
		return fmt.Errorf("this host lacks %s%s", strings.Join(missing, ", "), hint)
	}
	return c
}

// diagnose looks at the host.
func (h *Host) diagnose(ctx context.Context) (finding.List, error) {
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	tools, err := kernelTools(ctx, host, filepath.SplitList(h.Getenv("PATH")))
	if err != nil {
		return nil, err
	}
	out := finding.List{tools}

	ns := finding.Finding{Name: "user namespaces", State: finding.Fine, Fact: "programs can run in a jail without root"}
	if err := jail.Check(ctx); err != nil {
		ns = finding.Finding{Name: ns.Name, State: finding.Missing, Fact: finding.OneLine(err.Error()),
			Without: "katabuild kernel or build of kernels, whose make runs only in a jail",
			WayOut:  "allow them (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, AppArmor)"}
	}
	out = append(out, ns, program(finding.Missing, "apt-get", "apt",
		"lock and fetch of Debian packages; tarballs and trees still work"))

	for _, f := range check.Machine(ctx, host) {
		if f.State == finding.Missing {
			f.Without = "katabuild boot; building still works"
		}
		out = append(out, f)
	}
	out = append(out, program(finding.Optional, "go", "golang-go", "recipes with u-root commands"))

	if dir, err := h.Store(); err != nil {
		out = append(out, finding.Finding{Name: "store", State: finding.Missing, Fact: finding.OneLine(err.Error()),
			Without: "command but boot and verify", WayOut: "name another folder with --store"})
	} else {
		out = append(out, room(dir))
	}
	return append(out, agentFile(h.Agent(host))), nil
}

// kernelTools looks for the compiler, the linker and what else a kernel of an architecture is built with.
func kernelTools(ctx context.Context, a arch.Arch, folders []string) (finding.Finding, error) {
	f := finding.Finding{Name: "kernel tools", State: finding.Fine,
		Fact: "compiler, linker and the kernel's helpers are there"}
	missing, err := builder.MissingTools(ctx, a, folders)
	if err != nil || len(missing) == 0 {
		return f, err
	}
	var names []string
	for _, m := range missing {
		names = append(names, m.Name)
		if !slices.Contains(f.Packages, m.Package) {
			f.Packages = append(f.Packages, m.Package)
		}
	}
	f.State, f.Fact = finding.Optional, "there is no "+strings.Join(names, ", no ")
	f.Without, f.WayOut = "kernels with --toolchain host; the tool-chain of locked packages needs none of it",
		install(f.Packages)
	return f, nil
}

// program looks for one on $PATH. state is for one that is not there.
func program(state finding.State, name, pkg, without string) finding.Finding {
	p, err := exec.LookPath(name)
	if err == nil {
		return finding.Finding{Name: name, State: finding.Fine, Fact: p}
	}
	packages := []string{pkg}
	return finding.Finding{Name: name, State: state, Fact: "not found on $PATH", Without: without,
		WayOut: install(packages), Packages: packages}
}

func install(packages []string) string {
	return "install it (Debian: " + strings.Join(packages, " ") + ")"
}

// workRoom is what the build of a kernel needs for a while, in bytes: 1.5 GB of source and the objects.
const workRoom = 3 << 30

func room(dir string) finding.Finding {
	f := finding.Finding{Name: "store", State: finding.Fine}
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	free := int64(st.Bavail) * int64(st.Bsize)
	f.Fact = fmt.Sprintf("%s, %.1f GB free", dir, float64(free)/1e9)
	switch {
	case err != nil:
		f.State, f.Fact = finding.Missing, fmt.Sprintf("%s: %v", dir, err)
	case free < workRoom:
		f.State = finding.Missing
		f.Fact += fmt.Sprintf("; building a kernel needs %.1f GB", float64(workRoom)/1e9)
	}
	if f.State == finding.Missing {
		f.Without, f.WayOut = "katabuild kernel or build of kernels", "free some room (katabuild store gc), or name "+
			"another folder with --store"
	}
	return f
}

func agentFile(path string) finding.Finding {
	f := finding.Finding{Name: "agent", State: finding.Missing, Without: "guests of recipes with `agent: builtin`",
		WayOut: "build it (make build), or name one with --agent"}
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.Fact = path + " is not there"
	case err != nil:
		f.Fact = err.Error()
	default:
		f = finding.Finding{Name: f.Name, State: finding.Fine, Fact: fmt.Sprintf("%s, %.1f MB", path,
			float64(fi.Size())/1e6)}
	}
	return f
}
