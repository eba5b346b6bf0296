package pod

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/wake"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/machine/machinetest"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/template"
)

// saving is machinetest's hypervisor, which says that it could restore machines.
type saving struct{ *machinetest.Hypervisor }

func (saving) Traits(machine.Plan) (*machine.Traits, error) {
	return &machine.Traits{Program: digest.Of(nil), Most: machine.Size{CPUs: 8, MemoryMiB: 1024}}, nil
}

// wakingUp is a guest that is woken and then serves.
func wakingUp(a *agenttest.Agent) func(*machinetest.Inside) {
	return func(i *machinetest.Inside) {
		l, err := i.Listen(agentapi.WakePort)
		if err != nil {
			i.Crash(err)
			return
		}
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, err = wake.Receive(c)
		if err := errors.Join(err, wake.Answer(c, err), c.Close(), l.Close()); err != nil {
			i.Crash(err)
			return
		}
		machinetest.WithAgent(a)(i)
	}
}

// withTemplate is a pod that wants to be restored from a template, which is there, and the template's folder.
func withTemplate(t *testing.T) (Options, *machinetest.Hypervisor, *bytes.Buffer, string) {
	t.Helper()
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o := options(t, h, a)
	said, dir := addTemplate(t, &o, h, a)
	return o, h, said, dir
}

// addTemplate has a pod want its template, and makes that.
func addTemplate(t *testing.T, o *Options, h *machinetest.Hypervisor, a *agenttest.Agent) (*bytes.Buffer, string) {
	t.Helper()
	said := &bytes.Buffer{}
	o.Hypervisor, o.Version = saving{h}, "v1"
	o.Log = slog.New(slog.NewTextHandler(said, nil))
	o.Config.Factory.EnableTemplate, o.Config.Factory.TemplatePath = true, filepath.Join(t.TempDir(), "t")
	g, err := readGuest(o.Config)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := template.NewMemory(int64(g.Boot.MemoryMiB) << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	state, err := template.NewMemory(1)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	tmpl, err := template.Folder(o.Config.Factory.TemplatePath).Put(t.Context(), template.Document{Guest: g.Name,
		Key: template.Key{Manifest: g.Digest, Machine: digest.Of(nil), Program: digest.Of(nil), CPU: digest.Of(nil),
			Katabuild: "v1"}, Made: 1, Attested: digest.Of(nil)}, template.Copies{Memory: memory, State: state})
	if err != nil {
		t.Fatal(err)
	}
	h.Guest = func(i *machinetest.Inside) {
		if i.Spec().Template {
			wakingUp(a)(i)
			return
		}
		machinetest.WithAgent(a)(i)
	}
	return said, tmpl.Dir()
}

func TestAPodIsRestoredFromItsTemplate(t *testing.T) {
	o, h, said, _ := withTemplate(t)
	o.Size = Size{MilliCPUs: 1000, MemoryMiB: 300}
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	r, err := record.Read(o.Dirs, o.ID)
	if err != nil || r.Verdict == nil || r.Verdict.Template == nil || r.Verdict.Template.Made != 1 {
		t.Errorf("the verdict: %+v, %v", r.Verdict, err)
	}
	vms := h.VMs()
	if len(vms) != 1 || !vms[0].Spec.Template {
		t.Fatalf("%d machines were started\n%s", len(vms), said)
	}
	// As large as the pod wants, though it began as the template.
	if now, was := vms[0].Size(), vms[0].Spec.Size; now.MemoryMiB != was.MemoryMiB+300 {
		t.Errorf("from %+v to %+v", was, now)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestAPodBootsWhereItsTemplateIsNoGood(t *testing.T) {
	for want, spoil := range map[string]func(o *Options, dir string) error{
		"there is no template":   func(_ *Options, dir string) error { return os.RemoveAll(dir) },
		"with another version":   func(o *Options, _ string) error { o.Version = "v2"; return nil },
		"memory: wrong digest":   func(_ *Options, dir string) error { return change(dir) },
		"other users may write":  func(_ *Options, dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) },
		"a restored machine can": func(o *Options, _ string) error { o.Size.MemoryMiB = 900; return nil },
		"state has 0 bytes":      func(_ *Options, dir string) error { return cut(dir) },
	} {
		o, h, said, dir := withTemplate(t)
		h.Guest = machinetest.WithAgent(&agenttest.Agent{})
		if err := spoil(&o, dir); err != nil {
			t.Fatal(err)
		}
		p, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		want = strings.Replace(want, "with another", "made with another", 1)
		if text := said.String(); !strings.Contains(text, "the guest boots") || !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
		if vms := h.VMs(); len(vms) != 1 || vms[0].Spec.Template {
			t.Errorf("%s: %d machines", want, len(vms))
		}
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// change changes one byte of a template's memory, in a hole.
func change(dir string) error {
	path := filepath.Join(dir, "memory")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil { // its owner may not write to it, but root
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			return err
		}
	}
	_, err = f.WriteAt([]byte{1}, 5<<20)
	return errors.Join(err, f.Close(), os.Chmod(path, 0o400))
}

func cut(dir string) error {
	path := filepath.Join(dir, "state")
	return errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 0), os.Chmod(path, 0o400))
}

// coldAfter checks that a pod has a guest that booted, after one that was restored.
func coldAfter(t *testing.T, p *Pod, h *machinetest.Hypervisor, said *bytes.Buffer, cause string) {
	t.Helper()
	vms := h.VMs()
	if len(vms) != 2 || !vms[0].Spec.Template || vms[1].Spec.Template {
		t.Fatalf("%d machines were started\n%s", len(vms), said)
	}
	<-vms[0].Done()
	var lines []string
	for l := range strings.Lines(said.String()) {
		if strings.Contains(l, "level=WARN") && strings.Contains(l, "is given up") {
			lines = append(lines, l)
		}
	}
	if len(lines) != 1 || !strings.Contains(lines[0], cause) {
		t.Errorf("the log does not say %q in one line:\n%s", cause, said)
	}
	if r, err := record.Read(p.dirs, p.id); err != nil || r.State != record.Running || r.Verdict.Template != nil {
		t.Errorf("the record: %+v, %v", r, err)
	}
}

func TestAPodBootsWhereARestoredGuestTakesNoDisk(t *testing.T) {
	o, h, said, _ := withTemplate(t)
	h.PlugError = errors.New("no hot-plug")
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	c := withDisk(t, "c1")
	_, err = p.Create(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "no hot-plug") {
		t.Fatal(err)
	}
	cold, err := p.Cold(t.Context(), err)
	if err != nil {
		t.Fatal(err)
	}
	coldAfter(t, cold, h, said, "no hot-plug")
	if _, err := cold.Create(t.Context(), c); err != nil {
		t.Error(err)
	}
	other := errors.New("no such program")
	if again, err := cold.Cold(t.Context(), other); again != nil || !errors.Is(err, other) {
		t.Errorf("a pod is started again for an error of its container: %v", err)
	}
	gone(t, o, h)
}

func TestAPodBootsWhereARestoredGuestTakesNoShare(t *testing.T) {
	testenv.Require(t, testenv.Tool("sh"))
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	alone(t)
	o, h, said, _ := withTemplate(t)
	h.PlugError = errors.New("no hot-plug")
	fake := filepath.Join(t.TempDir(), "virtiofsd")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\ncase $* in *fd=3*) exec sleep 600;; esac\necho posix_acl"),
		0o700); err != nil {
		t.Fatal(err)
	}
	o.Config.VM.SharedFS, o.Config.VM.VirtioFSDaemon = config.SharedVirtioFS, fake
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	coldAfter(t, p, h, said, "plug in the shared folder")
	if s := h.VMs()[1].Spec.Shares; len(s) != 1 {
		t.Errorf("the guest that boots has the shares %+v", s)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}

func TestAPodBootsInItsNamespaceWhereARestoredGuestTakesNoInterface(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS) {
		return
	}
	testenv.Require(t, testenv.Device(testenv.TUN))
	h, a := &machinetest.Hypervisor{}, &agenttest.Agent{}
	o, _ := networked(t, h, a, func() error { return veth("eth0", "10.88.0.5/16") })
	said, _ := addTemplate(t, &o, h, a)
	hooks, ran := o.Hooks, 0
	o.Hooks = func(ctx context.Context, pid int) error { ran++; return hooks(ctx, pid) }
	h.PlugError = errors.New("no hot-plug")
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	coldAfter(t, p, h, said, "plug in the interface")
	if n := h.VMs()[1].Spec.NICs; len(n) != 1 || ran != 1 {
		t.Errorf("the guest that boots has the interfaces %+v, and the hooks ran %d times", n, ran)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	gone(t, o, h)
}
