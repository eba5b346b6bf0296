package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// finding is what doctor says about one thing.
type finding struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Detail  string `json:"detail"`
	Package string `json:"package,omitempty"` // Debian package that brings it
	Without string `json:"without,omitempty"` // what does not work without it
}

func (a *app) doctorCmd() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Args: cobra.NoArgs, Short: "say what this host lacks, by package name, and what works " +
			"without it",
		Long: `doctor looks at everything katabuild may need on this host and says what is missing, which Debian package brings it,
and what does not work without it. It changes nothing. It ends with 1 when something is missing that a build or a boot
needs.`,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		found, err := a.diagnose(c.Context())
		if err != nil {
			return err
		}
		if asJSON {
			e := json.NewEncoder(a.out)
			e.SetIndent("", "  ")
			if err := e.Encode(found); err != nil {
				return err
			}
		} else if err := a.printFindings(found); err != nil {
			return err
		}
		var missing, packages []string
		for _, f := range found {
			if f.OK || f.Without == "" {
				continue
			}
			missing = append(missing, f.Name)
			if f.Package != "" && !slices.Contains(packages, f.Package) {
				packages = append(packages, f.Package)
			}
		}
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

func (a *app) printFindings(found []finding) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, f := range found {
		state := "ok"
		switch {
		case !f.OK && f.Without == "":
			state = "-"
		case !f.OK:
			state = "MISSING"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", state, f.Name, f.Detail)
		if !f.OK && f.Without != "" {
			fmt.Fprintf(w, "\t\twithout it: %s\n", f.Without)
		}
		if !f.OK && f.Package != "" {
			fmt.Fprintf(w, "\t\tDebian package: %s\n", f.Package)
		}
	}
	return w.Flush()
}

// diagnose looks at the host. A finding without Without is information, not a want.
func (a *app) diagnose(ctx context.Context) ([]finding, error) {
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	var out []finding
	tool := func(name, pkg, without string) {
		f := finding{Name: name, Package: pkg, Without: without}
		p, err := exec.LookPath(name)
		f.OK, f.Detail = err == nil, p
		if err != nil {
			f.Detail = "not found on $PATH"
		}
		out = append(out, f)
	}

	kernelTools := finding{Name: "kernel tools", OK: true,
		Detail:  "compiler, linker and the kernel's helpers are there",
		Without: "katabuild kernel, build (what the store holds still works)"}
	if missing, err := builder.MissingTools(ctx, toBuild(host), filepath.SplitList(a.getenv("PATH"))); err != nil {
		return nil, err
	} else if len(missing) > 0 {
		var names, packages []string
		for _, m := range missing {
			names = append(names, m.Name)
			if !slices.Contains(packages, m.Package) {
				packages = append(packages, m.Package)
			}
		}
		kernelTools.OK, kernelTools.Detail, kernelTools.Package = false, "missing "+strings.Join(names, ", "),
			strings.Join(packages, " ")
	}
	out = append(out, kernelTools)

	ns := finding{Name: "user namespaces", OK: true, Detail: "programs can run in a jail without root",
		Without: "katabuild kernel, build: the kernel's make runs only in a jail"}
	if err := jail.Check(ctx); err != nil {
		ns.OK, ns.Detail = false, err.Error()
	}
	out = append(out, ns)

	tool("apt-get", "apt", "katabuild lock and fetch of Debian packages (tarballs and trees still work)")
	tool(host.QEMU, "qemu-system-x86", "katabuild boot (building still works)")

	k := accel.Probe(host)
	if choice, err := accel.Choose(accel.Auto, k); err == nil {
		out = append(out, finding{Name: "KVM", OK: choice.Accel == accel.KVM, Detail: choice.Reason})
	}
	v := vsock.Choose(agentapi.ReadyPort)
	out = append(out, finding{Name: "vsock", OK: true, Detail: v.Reason})

	tool("go", "", "")
	out[len(out)-1].Detail += " (only for recipes with u-root commands)"

	if s, err := a.openStore(); err != nil {
		out = append(out, finding{Name: "store", Detail: err.Error(), Without: "everything but boot and verify"})
	} else {
		out = append(out, room(s.Dir()))
	}
	agent := a.agentPath("")
	fi, err := os.Stat(agent)
	f := finding{Name: "agent", OK: err == nil, Detail: agent, Without: "recipes with `agent: builtin`"}
	if err == nil {
		f.Detail += fmt.Sprintf(", %.1f MB", float64(fi.Size())/1e6)
	} else if errors.Is(err, os.ErrNotExist) {
		f.Detail += " is not there; `make build` builds it"
	}
	return append(out, f), nil
}

// workRoom is what the build of a kernel needs for a while, in bytes: 1.5 GB of source and the objects.
const workRoom = 3 << 30

func room(dir string) finding {
	f := finding{Name: "store", Without: "building a kernel"}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		f.Detail = err.Error()
		return f
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	f.OK = free >= workRoom
	f.Detail = fmt.Sprintf("%s, %.1f GB free", dir, float64(free)/1e9)
	if !f.OK {
		f.Detail += fmt.Sprintf("; building a kernel needs %.1f GB", float64(workRoom)/1e9)
	}
	return f
}
