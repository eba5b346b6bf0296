package pod

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/wake"
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
	h, a, said := &machinetest.Hypervisor{}, &agenttest.Agent{}, &bytes.Buffer{}
	o := options(t, h, a)
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
	h.Guest = wakingUp(a)
	return o, h, said, tmpl.Dir()
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
