// Package containerd runs what containerd and Kubernetes expect of a runtime, with real containerds and the runtime
// that the environment names.
package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/ci/containerd/image"
	"github.com/katabuild/katabuild/ci/containerd/nest"
	"github.com/katabuild/katabuild/ci/containerd/virtiofsd"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/testenv"
)

// repository is the repository's root.
const repository = "../.."

// asked is the variable that turns these tests on.
const asked = "KATABUILD_TEST_CONTAINERD"

// runtimeVariable names the runtime handler to test: "kata", the default, "runc", which proves the tests, or "runk".
const runtimeVariable = "KATABUILD_TEST_RUNTIME"

func TestMain(m *testing.M) {
	if os.Getenv(asked)+os.Getenv(askedKubernetes) == "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	if !nest.Inside() { // where there is no network to build programs with
		if err := build(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(nest.Run(m.Run))
}

// build has the programs built that are not there. Without Go there are none, which the tests say.
func build(ctx context.Context) error {
	if _, err := exec.LookPath("go"); err != nil {
		return nil
	}
	start := time.Now()
	if _, err := releases["2"](ctx); err != nil {
		return err
	}
	if os.Getenv(askedKubernetes) != "" {
		if _, err := clusterPrograms(ctx); err != nil {
			return err
		}
	}
	if inGuests(os.Getenv(runtimeVariable)) {
		if _, err := fileServer(ctx); err != nil {
			return err
		}
	}
	if d := time.Since(start).Round(time.Second); d > 0 {
		fmt.Fprintf(os.Stderr, "%v to build programs for tests\n", d)
	}
	return nil
}

// tools is where programs for tests are kept.
func tools() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "katabuild-tools"), err
}

var root = testenv.Root

var images = sync.OnceValues(func() (*image.Set, error) {
	return image.NewSet(context.Background(), filepath.Join(repository, "ci/toolbox"))
})

// setting is one containerd with the runtime under test.
type setting struct {
	*daemon.Daemon
	dir     string // for files of tests
	handler string // as CRI names it: "runc" or "kata"
	kind    string // as ctr names it
	config  string // the runtime's configuration file
	images  *image.Set
}

// guest says whether containers run in a virtual machine, which has its own kernel and cgroup version 2.
func (s *setting) guest() bool { return inGuests(s.handler) }

// inGuests says whether a handler runs containers in virtual machines. Those of runc and runk are the host's processes.
func inGuests(handler string) bool { return handler != "runc" && handler != "runk" }

// onEach runs test with each containerd. Nothing may be left when it ends.
func onEach(t *testing.T, test func(t *testing.T, s *setting)) {
	testenv.Require(t, testenv.Asked(asked, "test-containerd"), root, testenv.Tool("containerd"), testenv.Tool("runc"),
		testenv.Tool("go"), testenv.Tool("ip"), testenv.Tool("iptables"))
	which := []string{"1.6", "2"}
	if os.Getenv(factoryVariable) != "" {
		which = which[1:] // whose containerd it is makes no difference to where guests come from
	}
	for _, release := range which {
		t.Run("containerd "+release, func(t *testing.T) { on(t, release, test) })
	}
}

func on(t *testing.T, name string, test func(t *testing.T, s *setting)) {
	onChanged(t, name, func(*daemon.Config) {}, test)
}

// onChanged runs test with a containerd that is set up otherwise.
func onChanged(t *testing.T, name string, change func(*daemon.Config), test func(t *testing.T, s *setting)) {
	set, err := images()
	if err != nil {
		t.Fatal(err)
	}
	release, err := releases[name](t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir is long, and a socket's path may have 107 bytes.
	dir, err := os.MkdirTemp("", "kbt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := set.WriteHosts(dir + "/certs.d"); err != nil {
		t.Fatal(err)
	}
	s := &setting{dir: dir + "/test", handler: "runc", kind: "io.containerd.runc.v2", images: set}
	cfg := daemon.Config{Release: release, Dir: dir + "/c", Hosts: dir + "/certs.d", Pause: image.Pause,
		Bridge: "kb" + strings.ReplaceAll(name, ".", ""), Subnet: "10.88.16"}
	switch h := os.Getenv(runtimeVariable); h {
	case "runc":
	case "runk":
		cfg.Runtime = runk(t)
	default:
		cfg.Runtime = kata(t, h, dir)
	}
	if cfg.Runtime != nil {
		s.handler, s.kind, s.config = cfg.Runtime.Handler, cfg.Runtime.Type, cfg.Runtime.Config
	}
	for _, d := range []string{s.dir, cfg.Dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	change(&cfg)
	before, err := nest.Look()
	if err != nil {
		t.Fatal(err)
	}
	if s.Daemon, err = daemon.Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd said at last:\n%s", s.Tail(40))
			if keep := os.Getenv("KATABUILD_TEST_LOGS"); keep != "" {
				b, _ := os.ReadFile(s.LogFile())
				_ = os.WriteFile(filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "-")+".log"), b, 0o644)
			}
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		left, err := nest.LeftSince(before, 10*time.Second)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Errorf("left behind: %s", l)
		}
		nest.RemoveCgroups()
	})
	factoryOf(t, dir).start(t, s)
	test(t, s)
}

// releases finds or builds each containerd.
var releases = map[string]func(context.Context) (daemon.Release, error){
	"1.6": func(ctx context.Context) (daemon.Release, error) { return daemon.Distribution(ctx, "/usr/bin") },
	"2": func(ctx context.Context) (daemon.Release, error) {
		dir, err := tools()
		if err != nil {
			return daemon.Release{}, err
		}
		return daemon.Built(ctx, dir)
	},
}

// fileServer finds or brings the virtiofsd that pods have.
func fileServer(ctx context.Context) (string, error) {
	a, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	dir, err := tools()
	if err != nil {
		return "", err
	}
	return virtiofsd.Rust(ctx, dir, a)
}

// kata is our runtime with the default guest, as `make build guest` leave them.
func kata(t *testing.T, handler, dir string) *daemon.Runtime {
	t.Helper()
	if handler == "" {
		handler = "kata"
	}
	bin, err := filepath.Abs(filepath.Join(repository, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	guest := os.Getenv("KATABUILD_TEST_GUEST")
	if guest == "" {
		guest = filepath.Join(filepath.Dir(bin), "out/default")
	}
	testenv.Require(t, testenv.Tool("qemu-system-x86_64"),
		testenv.Func(testenv.Shim, func() error {
			_, err := os.Stat(filepath.Join(bin, "containerd-shim-kata-v2"))
			return err
		}),
		testenv.Func(testenv.Guest, func() error {
			_, err := os.Stat(filepath.Join(guest, "manifest.json"))
			return err
		}))
	fsd, err := fileServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "configuration.toml")
	f := factoryOf(t, dir)
	text := fmt.Appendf(nil, "[hypervisor.qemu]\nguest = %q\nvirtio_fs_daemon = %q\n%s"+
		"[agent.kata]\nenable_annotations = [\"policy\"]\n%s", guest, fsd, f.hypervisor(), f.section())
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return &daemon.Runtime{Handler: handler, Type: "io.containerd.kata.v2", Config: file, Path: bin}
}

// runk is our runtime for containers on the host, as `make build` leaves it, behind the shim of runc.
func runk(t *testing.T) *daemon.Runtime {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(repository, "bin/runk"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: make build makes it", err)
	}
	return &daemon.Runtime{Handler: "runk", Type: "io.containerd.runc.v2", Program: program}
}

// until polls what until it is true, and fails with what was awaited.
func until(t testing.TB, patience time.Duration, awaited string, what func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !what(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("awaited for %v: %s", patience, awaited)
		}
	}
}
