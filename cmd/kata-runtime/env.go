package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// envFormat is the version of env's form: Kata Containers 4.1's number, because its keys mean what they mean there,
// with what we add.
const envFormat = "1.0.27"

// environment is what env prints. The keys are Kata's; those of Guest, Sandbox and Problems are ours.
type environment struct {
	Kernel     envKernel
	Meta       envMeta
	Image      envPath
	Initrd     envPath
	Hypervisor envHypervisor
	Runtime    envRuntime
	Host       envHost
	Agent      envAgent
	Guest      *envGuest      `toml:",omitempty" json:",omitempty"`
	Sandbox    map[string]any `toml:",omitempty" json:",omitempty"`
	Problems   []string       // what could not be found out
}

type (
	envMeta   struct{ Version string }
	envPath   struct{ Path string }
	envKernel struct {
		Path       string
		Parameters string
	}
	envHypervisor struct {
		Name              string // ours
		MachineType       string
		Version           string
		Path              string
		BlockDeviceDriver string
		EntropySource     string
		SharedFS          string
		VirtioFSDaemon    string
		Msize9p           int
		HotPlugVFIO       string
		ColdPlugVFIO      string
		PCIeRootPort      int
		PCIeSwitchPort    int
		Debug             bool
		Acceleration      string // ours: what would execute the guest, and why
	}
	envRuntime struct {
		Path                string
		InterNetworkModel   string // ours
		Attestation         string // ours
		Debug               bool
		DisableGuestSeccomp bool
		Config              envPath
		Version             envVersion
	}
	envVersion struct{ Semver string }
	envHost    struct {
		Kernel             string
		Architecture       string
		VMContainerCapable bool
		SupportVSocks      bool // by the host's kernel; the runtime does without
		Distro             envDistro
		CPU                envCPU
		Memory             envMemory
	}
	envDistro struct{ Name, Version string }
	envCPU    struct {
		Vendor, Model string
		CPUs          int
	}
	envMemory struct{ Total, Free, Available uint64 } // KiB, as Kata has it
	envAgent  struct{ Debug, DebugConsole bool }
	envGuest  struct {
		Path           string
		Name           string
		Architecture   string
		Manifest       digest.Digest
		Time           string // the lock's
		KernelRelease  string
		KernelVersion  string
		KernelBuildID  string
		Agent          digest.Digest
		AgentGo        string
		Init           string
		Root           string
		VerityRootHash string `toml:",omitempty" json:",omitempty"`
		Files          []envFile
	}
	envFile struct {
		Path   string
		Digest digest.Digest
		Size   int64
	}
)

func (a *app) envCmd() *cobra.Command {
	var asJSON bool
	var sandboxID string
	c := &cobra.Command{
		Use: "env", Aliases: []string{"kata-env"}, Args: cobra.NoArgs,
		Short: "print what pods are made of on this host, for a bug report",
		Long: `env prints the configuration in force, the guest with its digests, the host, and with --sandbox what is
recorded of a pod, with what attestation said. The form is TOML, and the keys are Kata's where they mean something
here. What cannot be found out is under Problems, and no error.`,
		Example: `  kata-runtime env
  kata-runtime env --json --sandbox POD`,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&sandboxID, "sandbox", "", "also the record of this `pod`")
	c.RunE = func(c *cobra.Command, _ []string) error {
		e := a.environment(c.Context())
		if sandboxID != "" {
			r, err := a.record(sandboxID)
			if err != nil {
				return err
			}
			if e.Sandbox, err = tree(stateOf(r)); err != nil {
				return err
			}
		}
		if asJSON {
			return a.writeJSON(e)
		}
		return toml.NewEncoder(a.out).Encode(e)
	}
	return c
}

// tree is v as JSON has it, without nulls, which TOML has not.
func tree(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	return plain(m).(map[string]any), nil
}

func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if x == nil {
				delete(v, k)
			} else {
				v[k] = plain(x)
			}
		}
	case []any:
		for i, x := range v {
			v[i] = plain(x)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		return v.String()
	}
	return v
}

func (a *app) environment(ctx context.Context) environment {
	e := environment{Meta: envMeta{envFormat}, Problems: []string{}}
	problem := func(err error) {
		if err != nil {
			e.Problems = append(e.Problems, err.Error())
		}
	}
	cfg := config.Default()
	l, err := a.load()
	problem(err)
	if err == nil {
		cfg = l.Config
		e.Runtime.Config.Path = l.Files[0]
		for _, w := range l.Warnings {
			e.Problems = append(e.Problems, w.String())
		}
	}
	host, err := arch.FromGo(runtime.GOARCH)
	problem(err)
	target := host
	var g *guest.Guest
	if cfg.VM.Guest != "" || cfg.VM.Kernel != "" {
		if g, err = cfg.VM.ReadGuest(); err != nil {
			problem(err)
		} else {
			target = g.Arch
		}
	}
	if cfg.VM.Kernel != "" {
		e.Kernel.Path, e.Image.Path, e.Initrd.Path = cfg.VM.Kernel, cfg.VM.Image, cfg.VM.Initrd
	}
	if g != nil && g.Described() {
		e.describe(g)
	}
	facts := accel.Probe(target)
	choice, err := accel.Choose(cfg.VM.Acceleration, facts)
	problem(err)
	e.Hypervisor = envHypervisor{
		Name: cfg.Hypervisor, MachineType: string(cfg.VM.MachineType), BlockDeviceDriver: "virtio-blk",
		EntropySource:  "/dev/urandom",
		SharedFS:       cfg.VM.SharedFS,
		VirtioFSDaemon: cfg.VM.VirtioFSDaemon, Msize9p: cfg.VM.Msize9P, PCIeRootPort: cfg.VM.PCIeRootPorts,
		HotPlugVFIO: cfg.VM.HotPlugVFIO, ColdPlugVFIO: cfg.VM.ColdPlugVFIO, PCIeSwitchPort: cfg.VM.PCIeSwitchPorts,
		Debug: cfg.VM.EnableDebug, Acceleration: choice.Reason,
	}
	if g != nil {
		if e.Hypervisor.MachineType == "" && cfg.Hypervisor == config.HypervisorQEMU {
			kind, err := qemu.DefaultKind(g.Arch, g.Boot.Machine)
			problem(err)
			e.Hypervisor.MachineType = string(kind)
		}
		if g.Described() {
			words := append([]string{g.Boot.CommandLine}, cfg.Words()...)
			e.Kernel.Parameters = strings.Join(words, " ")
		}
	}
	if e.Hypervisor.VirtioFSDaemon == "" && cfg.VM.SharedFS == config.SharedVirtioFS {
		found, err := share.FindProgram(ctx)
		e.Hypervisor.VirtioFSDaemon = found.Path
		problem(err)
	}
	program := cfg.VM.Path
	if program == "" {
		program, err = hypervisor.Program(cfg.Hypervisor, target)
		problem(err)
	}
	e.Hypervisor.Path, e.Hypervisor.Version, err = programVersion(ctx, program)
	problem(err)
	e.Runtime.InterNetworkModel, e.Runtime.Attestation = cfg.Runtime.InternetworkingModel,
		string(cfg.Runtime.Attestation)
	e.Runtime.Debug, e.Runtime.DisableGuestSeccomp = cfg.Runtime.EnableDebug, cfg.Runtime.DisableGuestSeccomp
	e.Runtime.Version.Semver = version
	e.Runtime.Path, err = os.Executable()
	problem(err)
	e.Agent = envAgent{Debug: cfg.Agent.EnableDebug, DebugConsole: cfg.Agent.DebugConsoleEnabled}
	e.Host, err = readHost(host)
	problem(err)
	e.Host.VMContainerCapable = choice.Accel == accel.KVM
	_, err = os.Stat(vsock.KernelDevice)
	e.Host.SupportVSocks = err == nil
	return e
}

// describe says what a guest with a manifest is.
func (e *environment) describe(g *guest.Guest) {
	m := g.Manifest
	e.Kernel.Path, e.Initrd.Path, e.Image.Path = g.Kernel, g.Initrd, g.Image
	d := &envGuest{
		Path: g.Dir, Name: m.Name, Architecture: m.Arch, Manifest: g.Digest,
		Time:          time.Unix(m.Time, 0).UTC().Format(time.RFC3339),
		KernelRelease: m.Kernel.Release, KernelVersion: m.Kernel.Version, KernelBuildID: m.Kernel.BuildID,
		Agent: m.Agent.Digest, AgentGo: m.Agent.Go, Init: m.Agent.Init, Root: m.Root.Kind,
		VerityRootHash: m.Root.VerityRootHash,
	}
	if m.Image != nil && m.Image.Verity != nil {
		d.VerityRootHash = m.Image.Verity.RootHash
	}
	for _, f := range m.Files() {
		d.Files = append(d.Files, envFile(f))
	}
	e.Guest = d
}

// programTime bounds asking QEMU for its version.
const programTime = 10 * time.Second

func programVersion(ctx context.Context, program string) (path, version string, err error) {
	if path, err = exec.LookPath(program); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second // for a script whose children keep its output open
	out, err := cmd.Output()
	if err != nil {
		return path, "", fmt.Errorf("%s --version: %w", path, err)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return path, first, nil
}

// readHost reads what the host's files say.
func readHost(a arch.Arch) (envHost, error) {
	h := envHost{Architecture: a.Go, CPU: envCPU{CPUs: runtime.NumCPU()}}
	var errs []error
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
		}
		return string(b)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		errs = append(errs, fmt.Errorf("uname: %w", err))
	}
	h.Kernel = unix.ByteSliceToString(u.Release[:])
	// os-release(5): NAME=value, the value as a shell quotes it.
	release := read("/etc/os-release")
	h.Distro = envDistro{Name: unquoted(value(release, "NAME", "=")),
		Version: unquoted(value(release, "VERSION_ID", "="))}
	cpu := read("/proc/cpuinfo")
	h.CPU.Vendor, h.CPU.Model = value(cpu, "vendor_id", ":"), value(cpu, "model name", ":")
	memory := read("/proc/meminfo")
	for name, to := range map[string]*uint64{"MemTotal": &h.Memory.Total, "MemFree": &h.Memory.Free,
		"MemAvailable": &h.Memory.Available} {
		n, err := strconv.ParseUint(strings.TrimSuffix(value(memory, name, ":"), " kB"), 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("/proc/meminfo: %s: %w", name, err))
		}
		*to = n
	}
	return h, errors.Join(errs...)
}

// value is the first value of a name, in lines of name, separator and value.
func value(text, name, separator string) string {
	for l := range strings.Lines(text) {
		if k, v, ok := strings.Cut(l, separator); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func unquoted(s string) string { return strings.Trim(s, `"'`) }
