package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/bugreport"
	"github.com/katabuild/katabuild/runtime/record"
)

// debugFlags are those of kata-runtime debug.
type debugFlags struct {
	output string
	logs   []string
	since  string
	list   bool
	quiet  bool
}

const debugLong = `debug writes one file, a tar with zstd, with what somebody needs who looks into a fault of this
host: what "kata-runtime check", "env", "config", "factory status" and "state" say; of each POD, or of all, its record
with the verdict, its numbers and its processes; what has been logged; the host's kernel, its log, processor, memory,
modules and mounts; and how containerd and CRI-O are configured. What cannot be had is named in errors.txt, and does not
keep the rest from being there. Nothing is changed and nothing is sent.

Secrets are taken out: private keys, tokens, users of addresses, and values whose names sound like secrets. Look through
the file all the same before you give it away: zstd -dc FILE | tar -xf - unpacks it.`

func (a *app) debugCmd() *cobra.Command {
	var f debugFlags
	c := &cobra.Command{
		Use: "debug [POD...]", Aliases: []string{"collect-data"}, Short: "write a file for a report of a fault",
		Long: debugLong,
		Example: `  kata-runtime debug
  kata-runtime debug --since -10min -o report.tar.zst POD
  kata-runtime debug --log /var/log/containerd.log
  kata-runtime debug --list`,
	}
	fl := c.Flags()
	fl.StringVarP(&f.output, "output-file", "o", "", "write to this `file`, which must not be there yet; - is "+
		"standard output (default kata-runtime-debug-HOST-TIME.tar.zst)")
	fl.StringArrayVar(&f.logs, "log", nil, "a `file` of a log, in place of the journal (repeatable)")
	fl.StringVar(&f.since, "since", "-1d", "how far back the journal is read, a `time` as journalctl takes it")
	fl.BoolVar(&f.list, "list", false, "list what would be written, and end")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing but what is wrong")
	usage.Rules(c, usage.Rule{Flag: "log", Excludes: []string{"since"}, Why: "which is about the journal"},
		usage.Rule{Flag: "list", Excludes: []string{"output-file", "quiet"}, Why: "which writes no file"})
	c.RunE = func(c *cobra.Command, pods []string) error {
		for _, id := range pods {
			if _, err := a.record(id); err != nil {
				return err
			}
		}
		return a.debug(c.Context(), &f, pods)
	}
	return c
}

// debug writes the file.
func (a *app) debug(ctx context.Context, f *debugFlags, pods []string) (err error) {
	now := time.Now()
	if len(pods) == 0 {
		if pods, err = record.List(a.dirs); err != nil {
			fmt.Fprintln(a.err, "debug: the pods are left out:", err)
		}
	}
	parts := a.debugParts(f, pods)
	if f.list {
		for _, p := range parts {
			fmt.Fprintf(a.out, "%-40s %s\n", p.Name, p.What)
		}
		return nil
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("kata-runtime-debug-%s-%s", host, now.UTC().Format("20060102-150405"))
	if f.output == "" {
		f.output = name + ".tar.zst"
	}
	out := a.out
	if f.output == "-" {
		if file, is := a.out.(*os.File); is && isTerminal(file) {
			return &usage.Error{Err: errors.New("standard output is a terminal: name a file with --output-file")}
		}
	} else {
		file, err := os.OpenFile(f.output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w; name another one with --output-file", err)
		}
		if err != nil {
			return err
		}
		defer func() {
			if err = errors.Join(err, file.Close()); err != nil {
				err = errors.Join(err, os.Remove(f.output))
			}
		}()
		out = file
	}
	s, err := bugreport.Write(ctx, out, name, now, parts, func(part string) {
		if !f.quiet {
			fmt.Fprintf(a.err, "debug: %s\n", part)
		}
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", f.output, err)
	}
	if f.quiet {
		return nil
	}
	for _, l := range s.Lacked {
		fmt.Fprintf(a.err, "debug: not had: %s\n", l)
	}
	fmt.Fprintf(a.err, "debug: %d parts in %s; taken out: %s\n", s.Parts, f.output, s.Taken)
	return nil
}

// isTerminal says whether a file is one.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// debugParts are what is written, in this order.
func (a *app) debugParts(f *debugFlags, pods []string) []bugreport.Part {
	parts := []bugreport.Part{
		{Name: "version.txt", What: "kata-runtime version", Write: a.says("version")},
		{Name: "check.txt", What: "kata-runtime check: whether this host can run pods", Write: a.says("check")},
		{Name: "env.json", What: "kata-runtime env: programs, guest, kernel", Write: a.prints("env", "--json")},
		{Name: "config.txt", What: "kata-runtime config: values in force, and where each was set",
			Write: a.says("config", "--all", "--lenient")},
		{Name: "factory.txt", What: "kata-runtime factory status: templates and the pool",
			Write: a.says("factory", "status")},
		{Name: "pods.txt", What: "kata-runtime state: the pods", Write: a.says("state")},
	}
	for _, id := range pods {
		dir := "pods/" + id + "/"
		parts = append(parts,
			bugreport.Part{Name: dir + "state.json", What: "its record, with the verdict",
				Write: a.prints("state", "--json", id)},
			bugreport.Part{Name: dir + "metrics.txt", What: "its numbers", Write: a.says("metrics", id)},
			bugreport.Part{Name: dir + "processes.txt", What: "its processes on the host",
				Write: func(_ context.Context, w io.Writer) error { return a.processes(w, id) }})
	}
	if len(f.logs) == 0 {
		parts = append(parts, bugreport.Part{Name: "log.txt", What: "kata-runtime logs: the journal, since " + f.since,
			Write: a.says("logs", "--since", f.since)})
	}
	for i, file := range f.logs {
		parts = append(parts, bugreport.Part{Name: fmt.Sprintf("log-%d.txt", i+1), What: file, Write: fileText(file)})
	}
	for _, h := range []struct{ name, what, file string }{
		{"kernel.txt", "the kernel's version", "/proc/version"},
		{"command-line.txt", "the kernel's command line", "/proc/cmdline"},
		{"os-release.txt", "the distribution", "/etc/os-release"},
		{"processors.txt", "the processors", "/proc/cpuinfo"},
		{"memory.txt", "the memory", "/proc/meminfo"},
		{"modules.txt", "the kernel's modules", "/proc/modules"},
		{"mounts.txt", "what is mounted", "/proc/self/mountinfo"},
		{"pressure.txt", "whether processes wait for memory", "/proc/pressure/memory"},
	} {
		parts = append(parts, bugreport.Part{Name: "host/" + h.name, What: h.what, Write: fileText(h.file)})
	}
	parts = append(parts, bugreport.Part{Name: "host/kernel-log.txt", What: "the kernel's log", Write: kernelLog})
	for _, p := range []string{"/etc/containerd/config.toml", "/etc/containerd/conf.d/*.toml", "/etc/crio/crio.conf",
		"/etc/crio/crio.conf.d/*", "/var/lib/rancher/*/agent/etc/containerd/config.toml",
		"/etc/k0s/containerd.d/*.toml"} {
		files, err := filepath.Glob(p)
		if err != nil {
			continue // they are fixed, and right
		}
		for _, file := range files {
			parts = append(parts, bugreport.Part{Name: "host" + file, What: "how it is configured",
				Write: fileText(file)})
		}
	}
	return parts
}

// prints is what another word of this program prints.
func (a *app) prints(args ...string) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		var said strings.Builder
		err := a.run(ctx, w, &said, args)
		if said.Len() > 0 && err != nil {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
		}
		return err
	}
}

// says is what another word of this program prints and says. That something is wrong is what it has to tell.
func (a *app) says(args ...string) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		if err := a.run(ctx, w, w, args); err != nil && ctx.Err() == nil {
			_, err := fmt.Fprintf(w, "kata-runtime %s: %v\n", args[0], err)
			return err
		}
		return ctx.Err()
	}
}

// run runs another word, with the same global flags.
func (a *app) run(ctx context.Context, out, errs io.Writer, args []string) error {
	other := &app{in: strings.NewReader(""), out: out, err: errs, getenv: a.getenv, suffix: a.suffix}
	root := other.root()
	args = append(slices.Clone(args), "--root", a.dirs.State)
	if a.configFile != "" {
		args = append(args, "--config", a.configFile)
	}
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// fileText is a file's content.
func fileText(file string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}

// processes tells of a pod's processes.
func (a *app) processes(w io.Writer, id string) error {
	r, err := a.record(id)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range []struct {
		name string
		of   record.HostProcess
	}{{"shim", r.Shim}, {"QEMU", r.QEMU}, {"virtiofsd", r.VirtioFSD}} {
		if p.of.PID == 0 {
			continue
		}
		fmt.Fprintf(w, "== %s, process %d\n", p.name, p.of.PID)
		if !p.of.Alive() {
			fmt.Fprintln(w, "gone")
			continue
		}
		dir := filepath.Join("/proc", strconv.Itoa(p.of.PID))
		line, err := os.ReadFile(dir + "/cmdline")
		fmt.Fprintf(w, "%s\n", strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
		errs = append(errs, err)
		for _, name := range []string{"status", "limits", "cgroup", "wchan"} {
			fmt.Fprintf(w, "-- %s\n", name)
			errs = append(errs, fileText(filepath.Join(dir, name))(nil, w))
		}
		fmt.Fprintln(w)
	}
	return errors.Join(errs...)
}

// kernelLog is what dmesg(1) prints.
func kernelLog(ctx context.Context, w io.Writer) error {
	cmd := exec.CommandContext(ctx, "dmesg")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = w, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("dmesg: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
