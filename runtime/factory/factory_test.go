package factory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor"
	"github.com/katabuild/katabuild/runtime/hypervisor/qemu"
	"github.com/katabuild/katabuild/runtime/machine"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

// makerWord has this program be a maker of templates.
const makerWord = "maker"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == makerWord {
		if err := Serve(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// maker starts this program as one.
func maker(t *testing.T, c *config.Config) *child.Process {
	t.Helper()
	p, err := StartMaker([]string{"/proc/self/exe", makerWord}, Order{*c, "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(context.Background(), nil) })
	return p
}

func TestExtensionsOfTheConfiguration(t *testing.T) {
	verity := dmverity.Params{}
	if list, err := extensions([]config.ExtensionDisk{{Name: "a", Path: "/x", Params: &verity}}); err != nil ||
		len(list) != 1 || list[0].Name != "a" || list[0].Image != "/x" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := extensions([]config.ExtensionDisk{{Name: "a", Path: t.TempDir() + "/none"}}); err == nil {
		t.Error("an extension that is not there")
	}
}

func TestAnOrderHasTheWholeConfiguration(t *testing.T) {
	c := config.DefaultOf(config.HypervisorQEMU)
	c.VM.KernelParams, c.VM.Extensions = []config.KernelParam{"a b"}, []config.ExtensionDisk{{Name: "a", Path: "/x",
		Params: &dmverity.Params{RootHash: "00"}}}
	c.VM.DefaultVCPUs, c.Agent.DialTimeout = -1, time.Hour
	b, err := json.Marshal(Order{c, "v"})
	if err != nil {
		t.Fatal(err)
	}
	var again Order
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again.Config, c) || again.Version != "v" {
		t.Errorf("%v: %s", err, b)
	}
}

func TestAMakerSaysWhyItMakesNothing(t *testing.T) {
	c := config.Default()
	c.VM.Guest, c.Factory.TemplatePath = filepath.Join(t.TempDir(), "none"), t.TempDir()
	p := maker(t, &c)
	<-p.Done()
	if err := p.ExitError(); err == nil || !strings.Contains(err.Error(), "none/manifest.json") {
		t.Error(err)
	}
}

// bootConfig is the configuration of the guest that the environment names.
func bootConfig(t testing.TB) *config.Config {
	t.Helper()
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_BOOT", "test-boot"), testenv.File("KATABUILD_TEST_GUEST"),
		testenv.Tool("qemu-system-x86_64"))
	c := config.Default()
	guest, err := filepath.Abs(os.Getenv("KATABUILD_TEST_GUEST"))
	if err != nil {
		t.Fatal(err)
	}
	c.VM.Guest, c.VM.MachineType, c.VM.PCIeRootPorts = guest, qemu.Q35, 2
	c.Agent.DialTimeout = 5 * time.Minute
	c.Factory.TemplatePath = filepath.Join(t.TempDir(), "templates")
	return &c
}

// sandboxOf is the machine of a configuration.
func sandboxOf(t testing.TB, c *config.Config) sandbox.Config {
	t.Helper()
	g, err := c.VM.ReadGuest()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := Sandbox(c, g, hypervisor.Default())
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestOneMakerMakesATemplateInTheBackground: of those who were ordered at the same time; one that is killed leaves
// nothing that is ever used, and a template that was changed is replaced.
func TestOneMakerMakesATemplateInTheBackground(t *testing.T) {
	c := bootConfig(t)
	cfg := sandboxOf(t, c)
	restore := func() error {
		from, err := Of(c, "test").Restore(cfg, machine.Size{})
		if err != nil {
			if _, lacks := errors.AsType[*LackError](err); !lacks {
				t.Fatal(err)
			}
			return err
		}
		return from.Saved.Close()
	}
	one := maker(t, c)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if names, _ := filepath.Glob(c.Factory.TemplatePath + "/.claim-*"); len(names) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("nobody makes it")
		}
	}
	if err := one.Stop(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := restore(); err == nil {
		t.Fatal("there is a template")
	}
	for _, why := range []string{"there is none", "a byte is another"} {
		makers := []*child.Process{maker(t, c), maker(t, c), maker(t, c)}
		made := 0
		for _, m := range makers {
			<-m.Done()
			if err := m.ExitError(); err != nil {
				t.Fatal(err)
			}
			if s := m.Stderr(); s == "" {
				made++
			} else if !strings.Contains(s, "another process makes it") {
				t.Errorf("a maker says %q", s)
			}
		}
		if made != 1 {
			t.Errorf("%s: %d made it", why, made)
		}
		if err := restore(); err != nil {
			t.Errorf("%s: %v", why, err)
		}
		if why == "there is none" {
			spoil(t, c.Factory.TemplatePath)
			if err := restore(); err == nil || !strings.Contains(err.Error(), "wrong digest") {
				t.Errorf("a template that was changed: %v", err)
			}
		}
	}
	if left, _ := filepath.Glob(c.Factory.TemplatePath + "/making-*"); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// spoil changes a byte of the one template's memory.
func spoil(t *testing.T, folder string) {
	t.Helper()
	names, err := filepath.Glob(folder + "/*/memory")
	if err != nil || len(names) != 1 {
		t.Fatalf("%q, %v", names, err)
	}
	err = os.Chmod(names[0], 0o600)
	f, e := os.OpenFile(names[0], os.O_RDWR, 0)
	if err := errors.Join(err, e); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 1<<20)
	b[0]++
	_, e = f.WriteAt(b, 1<<20)
	if err := errors.Join(err, e, f.Close(), os.Chmod(names[0], 0o400)); err != nil {
		t.Fatal(err)
	}
}
