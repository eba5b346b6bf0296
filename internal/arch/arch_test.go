package arch

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestEveryNameFindsItsRow(t *testing.T) {
	for _, a := range All() {
		if b, err := Parse(a.Name); err != nil || !reflect.DeepEqual(b, a) {
			t.Errorf("%s: %v", a.Name, err)
		}
		if b, err := FromGo(a.Go); err != nil || !reflect.DeepEqual(b, a) {
			t.Errorf("%s: %v", a.Go, err)
		}
	}
	if _, err := Parse("vax"); err == nil || !strings.Contains(err.Error(), "x86_64, aarch64") {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestEveryRowIsFull(t *testing.T) {
	for _, a := range All() {
		all := []string{a.Name, a.Go, a.Debian, a.Linux, a.CrossPrefix, a.KernelTarget, a.KernelImage, a.QEMU,
			a.QEMUPackage, a.Machine, a.Console, a.OpenFlags}
		if slices.Contains(all, "") {
			t.Errorf("%+v", a)
		}
	}
}

func TestEveryRowSaysHowItBoots(t *testing.T) {
	for _, a := range All() {
		if a.ImageName() == "vmlinux" || a.ImageName() == "" {
			t.Errorf("%s: its image is called %q, as the ELF beside it", a.Name, a.ImageName())
		}
		if a.BootForm != "vmlinux" && a.BootForm != "image" {
			t.Errorf("%s: it boots a %q", a.Name, a.BootForm)
		}
		if names := a.MachineNames(); len(names) == 0 || names[0] != a.Machine {
			t.Errorf("%s: guests are built for %v, and its machine is %s", a.Name, names, a.Machine)
		}
		for _, m := range a.MachineNames() {
			if got, ok := a.FindMachine(m); !ok || got.Name != m {
				t.Errorf("%s: no machine %s", a.Name, m)
			}
		}
		if _, ok := a.FindMachine("toaster"); ok {
			t.Errorf("%s: a machine that is none", a.Name)
		}
	}
}
