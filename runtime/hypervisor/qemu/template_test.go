package qemu

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"github.com/katabuild/katabuild/runtime/machine"
)

func TestATemplateDependsOnTheMachineAndItsProgramAlone(t *testing.T) {
	x86, err := arch.Parse("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(program, []byte("QEMU"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := func() machine.Spec {
		return machine.Spec{Name: "a", Arch: x86, Kind: string(Q35), Size: machine.Size{CPUs: 1, MemoryMiB: 256},
			Kernel: "/k", Initrd: "/i", CommandLine: "quiet", Accel: accel.TCG, Template: true, Program: program,
			Max: machine.Size{CPUs: 4, MemoryMiB: 1024}, MemorySlots: 4}
	}
	traits := func(s machine.Spec) *machine.Traits {
		t.Helper()
		p, err := Hypervisor{}.Plan(s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Hypervisor{}.Traits(p)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := traits(spec())
	if first.Most != (machine.Size{CPUs: 1, MemoryMiB: 1024}) { // TCG takes no processors later
		t.Errorf("it grows to %+v", first.Most)
	}
	for name, c := range map[string]struct {
		change func(*machine.Spec)
		same   bool
	}{
		"another name and other files": {func(s *machine.Spec) { s.Name, s.Kernel = "b", "/k2" }, true},
		"another command line":         {func(s *machine.Spec) { s.CommandLine = "debug" }, false},
		"more memory":                  {func(s *machine.Spec) { s.Size.MemoryMiB = 512 }, false},
		"more room":                    {func(s *machine.Spec) { s.Max.MemoryMiB = 2048 }, false},
		"more places":                  {func(s *machine.Spec) { s.Places = 3 }, false},
		"another disk":                 {func(s *machine.Spec) { s.Disks = []machine.Disk{{Path: "/d"}} }, false},
	} {
		s := spec()
		c.change(&s)
		if got := traits(s); bytes.Equal(got.Machine, first.Machine) != c.same || got.Program != first.Program {
			t.Errorf("%s: the same is %v", name, !c.same)
		}
	}
	if err := os.WriteFile(program, []byte("QEMV"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := traits(spec()); got.Program == first.Program || !bytes.Equal(got.Machine, first.Machine) {
		t.Error("another QEMU makes no difference, or not to the program alone")
	}
	s := spec()
	s.Template = false
	p, err := Hypervisor{}.Plan(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Hypervisor{}).Traits(p); !errors.Is(err, machine.ErrNoTemplate) {
		t.Errorf("a machine that was not planned so: %v", err)
	}
}
