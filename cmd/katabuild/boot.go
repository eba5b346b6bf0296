package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// bootFlags are what a user may say about one boot.
type bootFlags struct {
	machine, kernel, accel, pin, reportFile, consoleFile, qemu, hybrid string
	cpus, memory                                                       int
	words, extensions                                                  []string
	timeout                                                            time.Duration
	dryRun, asJSON, icount, noSeccomp, keep, probe                     bool
}

func (a *app) bootCmd() *cobra.Command {
	var f bootFlags
	c := &cobra.Command{
		Use: "boot [GUEST]", Args: cobra.MaximumNArgs(1),
		Short: "boot a guest, ask it what it is, and print the verdict",
		Long: `boot checks the digest of every file of a guest (a folder made by "katabuild build", default
out/default), starts it in QEMU, waits until its agent says it is ready, asks it for a report bound to a fresh
nonce, stops it, and compares the report with the manifest. It needs no root, and no module of the host's kernel.

A guest that does not come up is an error that names the stage (vmm, kernel, init, transport, agent), with the last
lines of its console and QEMU's command line ready to paste.

An extension, made by "katabuild image" from a recipe with "extension: true", is one more disk; the guest mounts it at
/run/kata-extensions/NAME, or ends where it is not what its root_hash.txt says. The verdict has a claim for each.

With --probe the guest also tries what its kernel's features promise (the manifest's kernel.probes): it mounts, makes
interfaces, namespaces and control groups, loads a program, and cleans up. The verdict has a claim for each probe, and
says what was missing.

Report and verdict of a guest that is attested stay beside it, as report.json and verdict.json: "katabuild release"
wants them. A boot with --append or --extension leaves none.`,
		Example: `  katabuild boot out/default
  katabuild boot out/default --dry-run
  katabuild boot out/default --machine q35 --cpus 2 --report report.json
  katabuild boot out/default --probe
  katabuild boot out/default --extension out/tools --extension gpu=out/drivers`,
	}
	fl := c.Flags()
	fl.StringVar(&f.machine, "machine", "", "QEMU machine, microvm or q35 (default the manifest's)")
	fl.StringVar(&f.kernel, "kernel", "", "which form of the kernel to boot: vmlinux (PVH) or image (compressed); "+
		"default what the architecture boots best")
	fl.StringVar(&f.accel, "accel", "auto", "auto, kvm or tcg")
	fl.IntVar(&f.cpus, "cpus", 0, "number of CPUs (default the manifest's)")
	fl.IntVar(&f.memory, "memory", 0, "memory in MiB (default the manifest's)")
	fl.StringArrayVar(&f.words, "append", nil, "a word to add to the kernel command line; the verdict will name it")
	fl.StringArrayVar(&f.extensions, "extension", nil, extensionHelp)
	fl.DurationVar(&f.timeout, "timeout", sandbox.DefaultTimeout, "how long the guest may take to be ready")
	fl.StringVar(&f.pin, "manifest-digest", "", "the digest the manifest must have, from a source you trust")
	fl.StringVar(&f.reportFile, "report", "", "also write the report to this file")
	fl.StringVar(&f.consoleFile, "console", "", "also write the console to this file; - for standard error")
	fl.StringVar(&f.qemu, "qemu", "", "the QEMU program (default the architecture's, from $PATH)")
	fl.StringVar(&f.hybrid, "vsock", "", "path of a UNIX socket through which other programs reach the guest's "+
		"ports (CONNECT port)")
	fl.BoolVar(&f.probe, "probe", false, "also have the guest try what its kernel's features promise")
	fl.BoolVar(&f.keep, "keep", false, "leave the guest running until it ends or Ctrl-C, after the verdict")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print QEMU's command line, ready to paste, and start nothing")
	fl.BoolVar(&f.asJSON, "json", false, "print verdict, report and timeline as JSON")
	fl.BoolVar(&f.noSeccomp, "no-qemu-sandbox", false, "for a QEMU that was built without seccomp")
	fl.BoolVar(&f.icount, "icount", false, "for measurements: virtual time, one nanosecond an instruction (TCG, "+
		"one CPU)")
	usage.Rules(c, usage.Rule{Flag: "dry-run", Excludes: []string{"json", "report", "console", "keep", "timeout",
		"probe"},
		Why: "which starts nothing"})
	c.RunE = func(c *cobra.Command, args []string) error { return a.boot(c.Context(), f, guestDir(args)) }
	return c
}

func (a *app) boot(ctx context.Context, f bootFlags, dir string) error {
	form, formErr := guest.ParseKernelForm(f.kernel)
	m, d, err := readGuest(dir, f.pin)
	if err != nil {
		return err
	}
	if f.machine != "" {
		if _, err := qemu.ParseMachine(f.machine); err != nil {
			return &usage.Error{Err: err}
		}
	}
	if formErr != nil {
		return &usage.Error{Err: formErr}
	}
	g, err := guest.FromManifest(m, d, dir, form)
	if err != nil {
		return err
	}
	cfg := sandbox.Config{
		Guest: g, Hypervisor: hypervisor.Default(), Machine: f.machine,
		Size:  machine.Size{CPUs: f.cpus, MemoryMiB: f.memory},
		Words: f.words, Timeout: f.timeout, Program: f.qemu, VirtualTime: f.icount, NoSeccomp: f.noSeccomp,
		Hybrid: f.hybrid, Attest: true,
	}
	if f.probe {
		if cfg.Probes = m.Kernel.Probes; len(cfg.Probes) == 0 {
			return fmt.Errorf(
				"guest %s: its manifest names no probes (kernel.probes): build it again with this katabuild, "+
					"or with a kernel of features that have some", dir)
		}
	}
	if cfg.Accel, err = accel.ParsePreference(f.accel); err != nil {
		return &usage.Error{Err: err}
	}
	if cfg.Extensions, err = readExtensions(f.extensions); err != nil {
		return err
	}
	if f.dryRun {
		p, err := sandbox.NewPlan(cfg)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.err, "%s\n", p.Accel.Reason)
		_, err = fmt.Fprintln(a.out, p.Command())
		return err
	}
	closeConsole, err := a.console(&cfg, f.consoleFile)
	if err != nil {
		return err
	}
	defer closeConsole()
	return a.bootAndJudge(ctx, cfg, f, dir)
}

// extensionHelp is about --extension, of boot and verify.
var extensionHelp = fmt.Sprintf(
	"an extension, FOLDER or NAME=FOLDER with image.img and root_hash.txt; may be repeated. NAME (default the "+
		"image's label) has at most %d letters, digits, dashes and underscores", extension.MaxName)

func readExtensions(args []string) ([]guest.Extension, error) {
	var out []guest.Extension
	for _, arg := range args {
		e, err := guest.ReadExtension(arg)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// named are the extensions as the guest knows them.
func named(list []guest.Extension) []extension.Extension {
	var out []extension.Extension
	for _, e := range list {
		out = append(out, e.Extension)
	}
	return out
}

// console sends the guest's console where the user wants it.
func (a *app) console(cfg *sandbox.Config, file string) (func(), error) {
	switch file {
	case "":
		return func() {}, nil
	case "-":
		cfg.Console = a.err
		return func() {}, nil
	}
	w, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	cfg.Console = w
	return func() { _ = w.Close() }, nil // a console log is a convenience
}

// outcome is what `boot --json` prints.
type outcome struct {
	Verdict  json.RawMessage `json:"verdict"`
	Report   json.RawMessage `json:"report"`
	Timeline []moment        `json:"timeline"`
}

type moment struct {
	Name  string `json:"name"`
	AtNS  int64  `json:"at_ns"` // since the boot command began to start the guest
	Guest bool   `json:"guest"` // reported by the guest, on a clock moved to the host's
}

func (a *app) bootAndJudge(ctx context.Context, cfg sandbox.Config, f bootFlags, dir string) error {
	p, err := sandbox.NewPlan(cfg)
	if err != nil {
		return err
	}
	if !f.asJSON {
		fmt.Fprintf(a.err, "boot: %s; %s\n", p.Accel.Reason, p.Vsock.Reason)
	}
	s, err := p.Start(ctx, cfg)
	if err != nil {
		a.explainBoot(err)
		return err
	}
	defer s.Stop() //nolint:errcheck // Stop is called and checked below; this is for early returns
	// A word of --append is not the guest's, and the verdict names it.
	asked, err := s.Attest(ctx, nil)
	if err != nil {
		a.tellConsole(lastWords(s.Console(consoleKept)))
		return fmt.Errorf("the guest runs, but: %w", err)
	}
	timeline := sandbox.Merge(s.Timeline(), asked.Report.Timeline)
	if !f.keep {
		if err := s.Stop(); err != nil {
			return err
		}
	}
	if f.reportFile != "" {
		if err := atomicfile.Write(f.reportFile, asked.Raw, 0o644); err != nil {
			return err
		}
	}
	if err := a.keepBeside(f, dir, asked); err != nil {
		return err
	}
	if f.asJSON {
		err = a.printOutcome(asked, timeline)
	} else {
		a.printTimeline(timeline)
		err = a.printVerdict(asked.Verdict, false)
	}
	if f.keep {
		fmt.Fprintln(a.err, "boot: the guest runs on; Ctrl-C ends it")
		select {
		case <-ctx.Done():
		case <-s.Done():
		}
		err = errors.Join(err, s.Stop())
	}
	return err
}

// keepBeside leaves report and verdict beside a guest that is attested, for those who release it. Another boot than the
// guest's own says nothing about it, and a folder that cannot be written to stays as it is.
func (a *app) keepBeside(f bootFlags, dir string, asked *sandbox.Attestation) error {
	if asked.Verdict.Result != verdict.Attested || len(f.words)+len(f.extensions) > 0 ||
		unix.Access(dir, unix.W_OK) != nil {
		return nil
	}
	data, err := asked.Verdict.Encode()
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(filepath.Join(dir, assemble.ReportName), asked.Raw, 0o644),
		atomicfile.Write(filepath.Join(dir, assemble.VerdictName), data, 0o644))
}

func (a *app) printOutcome(asked *sandbox.Attestation, timeline []sandbox.Moment) error {
	data, err := asked.Verdict.Encode()
	if err != nil {
		return err
	}
	o := outcome{Verdict: data, Report: asked.Raw}
	for _, m := range timeline {
		o.Timeline = append(o.Timeline, moment{m.Name, int64(m.After), m.Guest})
	}
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(o); err != nil {
		return err
	}
	if asked.Verdict.Result == verdict.Failed {
		return errVerdict
	}
	return nil
}

// printTimeline shows where the time went: each moment, and how long after the one before.
func (a *app) printTimeline(t []sandbox.Moment) {
	w := tabwriter.NewWriter(a.err, 0, 0, 2, ' ', 0)
	var last time.Duration
	for _, m := range t {
		who := "host"
		if m.Guest {
			who = "guest"
		}
		fmt.Fprintf(w, "  %s\t%s\t%8.1f ms\t+%.1f\n", who, m.Name, ms(m.After), ms(m.After-last))
		last = m.After
	}
	_ = w.Flush() // for people
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// explainBoot shows what a person needs to find out why a guest did not come up.
func (a *app) explainBoot(err error) {
	var st *sandbox.StageError
	if !errors.As(err, &st) {
		return
	}
	if len(st.Console) > 0 {
		a.tellConsole(st.Console)
	} else {
		fmt.Fprintln(a.err, "the console stayed silent; --append loglevel=7 makes the kernel talk")
	}
	fmt.Fprintf(a.err, "to try it by hand:\n%s\n", strings.TrimSpace(st.Command))
}

// consoleLines is how much of the console is told of a guest that runs and cannot report.
const consoleLines = 20

// consoleKept is how many lines are looked through for reasons that stand further up, and mostReasons how many of
// those are told.
const (
	consoleKept = 5000
	mostReasons = 3
)

// lastWords are the last lines of a console. A program that cannot read its own file says a lot about itself as it
// ends; what the kernel said of the disk before comes first.
func lastWords(all []string) []string {
	last := all[max(0, len(all)-consoleLines):]
	var reasons []string
	for _, l := range all[:len(all)-len(last)] {
		if strings.Contains(l, "device-mapper: verity: ") && len(reasons) < mostReasons {
			reasons = append(reasons, l)
		}
	}
	return append(reasons, last...)
}

func (a *app) tellConsole(lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(a.err, "the console's last lines:")
	for _, l := range lines {
		_, _ = io.WriteString(a.err, "  | "+l+"\n")
	}
}
