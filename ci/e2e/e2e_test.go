// Package e2e tests the whole way with the real katabuild: a real kernel, a real boot, and what can go wrong between.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
)

// repository is the repository's root.
const repository = "../.."

// need skips unless the whole way was asked for. `make test-e2e` builds bin/, the locks and the tiny guest, and sets
// the variable.
func need(t *testing.T, more ...testenv.Need) {
	t.Helper()
	testenv.Require(t, append([]testenv.Need{testenv.Asked("KATABUILD_TEST_E2E", "test-e2e"),
		testenv.Tool("qemu-system-x86_64")}, more...)...)
}

// minutes is for what configures kernels again and again, and is asked for with those that build several.
var minutes = testenv.Asked("KATABUILD_TEST_KERNEL", "test-kernel")

// root is for mounting a small disk and for becoming another user.
var root = testenv.Root

func abs(t *testing.T, p string) string {
	t.Helper()
	a, err := filepath.Abs(filepath.Join(repository, p))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

type result struct {
	code     int
	out, err string
}

// katabuild runs bin/katabuild in the repository with the variables env.
func katabuild(t *testing.T, env []string, args ...string) result {
	t.Helper()
	return finish(t, command(t, env, args...))
}

func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(abs(t, "bin/katabuild"), args...)
	cmd.Dir = abs(t, ".")
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (r result) want(t *testing.T, code int, parts ...string) {
	t.Helper()
	all := r.out + r.err
	for _, p := range parts {
		if !strings.Contains(all, p) {
			t.Errorf("lacks %q", p)
		}
	}
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if t.Failed() {
		t.Fatalf("it said:\n%s", all)
	}
}

// tiny is the folder of the tiny guest that `make test-e2e` has built.
func tiny(t *testing.T) string { return abs(t, "out/tiny") }

// clone copies a guest, so that a test may spoil it.
func clone(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "guest")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestEveryMachineAndKernelFormIsAttested(t *testing.T) {
	need(t)
	for _, machine := range []string{"microvm", "q35"} {
		for _, form := range []string{"vmlinux", "image"} {
			t.Run(machine+" "+form, func(t *testing.T) {
				katabuild(t, nil, "boot", tiny(t), "--machine", machine, "--kernel", form).want(t, 0, "tiny: attested")
			})
		}
	}
	t.Run("two processors", func(t *testing.T) {
		katabuild(t, nil, "boot", tiny(t), "--machine", "q35", "--cpus", "2").want(t, 0, "tiny: attested")
	})
}

func TestAFlippedByteIsRefusedBeforeBoot(t *testing.T) {
	need(t)
	for _, file := range []string{"vmlinux", "initrd.img", "manifest.json"} {
		t.Run(file, func(t *testing.T) {
			dir := clone(t, tiny(t))
			p := filepath.Join(dir, file)
			before, _, err := digest.File(p)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := os.WriteFile(p, data, 0o644); err != nil {
				t.Fatal(err)
			}
			katabuild(t, nil, "boot", dir).want(t, 1, file, string(before), string(digest.Of(data)))
		})
	}
}

// mixed is the guest a with the kernel or initrd of b, and a manifest that names b's files and a's promises: what a
// careless or hostile hand at the files leaves behind.
func mixed(t *testing.T, a, b string, swap func(ma, mb *manifest.Manifest)) string {
	t.Helper()
	ma, _, err := manifest.Read(a, "")
	if err != nil {
		t.Fatal(err)
	}
	mb, _, err := manifest.Read(b, "")
	if err != nil {
		t.Fatal(err)
	}
	swap(ma, mb)
	data, err := ma.Encode()
	if err != nil {
		t.Fatal(err)
	}
	dir := clone(t, b)
	// The promised .config lies beside, as a's.
	c, err := os.ReadFile(filepath.Join(a, "config"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config"), c, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(dir, data); err != nil {
		t.Fatal(err)
	}
	return dir
}

// variant builds the tiny guest with a change of its recipe or agent.
func variant(t *testing.T, from, to string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(abs(t, "recipes/tiny/recipe.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), from, to, 1)
	if err := os.WriteFile(filepath.Join(dir, "recipe.yaml"), []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	args := append([]string{"build", dir, "--lock", abs(t, "out/tiny.lock.json"), "-o", out}, flags...)
	katabuild(t, nil, args...).want(t, 0)
	return out
}

func unmet(t *testing.T, r result) []string {
	t.Helper()
	var o struct {
		Verdict verdict.Verdict `json:"verdict"`
	}
	if err := json.Unmarshal([]byte(r.out), &o); err != nil {
		t.Fatalf("%v:\n%s\n%s", err, r.out, r.err)
	}
	return o.Verdict.Unmet()
}

func TestAnotherConfigOfTheSameKernelIsNamed(t *testing.T) {
	need(t, testenv.Asked("KATABUILD_TEST_KERNEL", "test-kernel")) // it builds another kernel
	other := variant(t, "features: [tiny]", "features: [tiny, kallsyms]")
	dir := mixed(t, tiny(t), other, func(ma, mb *manifest.Manifest) {
		ma.Kernel.Image, ma.Kernel.Vmlinux, ma.Kernel.SystemMap = mb.Kernel.Image, mb.Kernel.Vmlinux,
			mb.Kernel.SystemMap
	})
	r := katabuild(t, nil, "boot", dir, "--json")
	if u := unmet(t, r); r.code != 3 || !slices.Equal(u, []string{"kernel.release", "kernel.build_id",
		"kernel.config"}) {
		t.Errorf("exit code %d, unmet %v", r.code, u)
	}
}

func TestAnotherBuildOfTheAgentIsNamed(t *testing.T) {
	need(t)
	agent := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X main.version=other", "-o", agent, "./cmd/kata-agent")
	cmd.Dir = abs(t, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	finish(t, cmd).want(t, 0)
	other := variant(t, "version: 1", "version: 1", "--agent", agent)
	dir := mixed(t, tiny(t), other, func(ma, mb *manifest.Manifest) { ma.Initrd = mb.Initrd })
	r := katabuild(t, nil, "boot", dir, "--json")
	if u := unmet(t, r); r.code != 3 || !slices.Equal(u, []string{"agent.digest"}) {
		t.Errorf("exit code %d, unmet %v", r.code, u)
	}
}

func TestAnotherCommandLineIsNamed(t *testing.T) {
	need(t)
	r := katabuild(t, nil, "boot", tiny(t), "--json", "--append", "agent.log=debug")
	if u := unmet(t, r); r.code != 3 || !slices.Equal(u, []string{"kernel.command_line"}) {
		t.Errorf("exit code %d, unmet %v", r.code, u)
	}
}

func TestAGuestWithoutInitSaysAtWhichStageItFailed(t *testing.T) {
	need(t)
	katabuild(t, nil, "boot", tiny(t), "--append", "rdinit=/nothing").want(t, 1, "stage init",
		"the console's last lines", "qemu-system-x86_64")
}

// seeded makes a store that holds what the kernel of the tiny guest is made of, its source and the packages of the
// tool-chain, and nothing else.
func seeded(t *testing.T, dir string, key store.Key) *store.Store {
	t.Helper()
	s, err := store.Open(dir, store.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := manifest.Read(tiny(t), "")
	if err != nil {
		t.Fatal(err)
	}
	from := usersStore(t)
	for _, tool := range append(m.Kernel.Toolchain, manifest.Tool{Digest: m.Kernel.Source.Digest}) {
		p, err := from.Get(tool.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.PutFile(p, tool.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// usersStore is the store that the guests under test were built in.
func usersStore(t *testing.T) *store.Store {
	t.Helper()
	dir := os.Getenv("KATABUILD_STORE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "katabuild")
	}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// elsewhere is a copy of what a build needs in a folder of another user's, who is nobody where root runs the tests.
type elsewhere struct {
	dir   string
	store *store.Store
	user  []string // what comes before a command to run it as that user
}

// newElsewhere makes such a folder below parent, "" for where temporary files go.
func newElsewhere(t *testing.T, parent string) elsewhere {
	t.Helper()
	const nobody = 65534
	dir, err := os.MkdirTemp(parent, "katabuild-elsewhere-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for _, p := range []string{"bin", "recipes"} {
		if err := os.CopyFS(filepath.Join(dir, p), os.DirFS(abs(t, p))); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(abs(t, "out/tiny.lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	key, err := store.ReadKey(filepath.Join(dir, keyName))
	if err != nil {
		t.Fatal(err)
	}
	e := elsewhere{dir: dir, store: seeded(t, filepath.Join(dir, "store"), key)}
	if os.Getuid() == 0 {
		e.user = []string{"setpriv", "--reuid", fmt.Sprint(nobody), "--regid", fmt.Sprint(nobody), "--clear-groups"}
	}
	return e
}

// keyName is the file of the key that signs the records of a store elsewhere: root writes some, the other user believes
// them.
const keyName = "store.key"

// env is what sets the store and its key.
func (e elsewhere) env() []string {
	return []string{"KATABUILD_STORE=" + e.store.Dir(), "KATABUILD_STORE_KEY=" + filepath.Join(e.dir, keyName)}
}

// handOver gives all there is to the other user.
func (e elsewhere) handOver(t *testing.T) {
	t.Helper()
	if e.user == nil {
		return
	}
	err := filepath.WalkDir(e.dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, 65534, 65534)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// command is katabuild run there by that user; before comes ahead of all.
func (e elsewhere) command(before []string, env []string, args ...string) *exec.Cmd {
	all := slices.Concat(before, e.user, []string{filepath.Join(e.dir, "bin/katabuild")}, args)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), slices.Concat([]string{"HOME=" + e.dir}, e.env(), env)...)
	return cmd
}

// TestKilledBuildsElsewhereEndInTheSameBytes kills builds at 50 random moments and lets the 51st finish: in another
// folder and store, as another user, with another umask, time zone, language, home and number of jobs than those the
// tiny guest was built with. Every file is the same, the manifest among them. Compiled objects come from the user's
// cache; with `make test-kernel` none do, and all is compiled again.
func TestKilledBuildsElsewhereEndInTheSameBytes(t *testing.T) {
	need(t, testenv.Tool("setpriv"), testenv.Tool("sh"))
	e := newElsewhere(t, "")
	if !minutes.Met() {
		if err := os.CopyFS(e.store.Objects(), os.DirFS(usersStore(t).Objects())); err != nil {
			t.Fatal(err)
		}
	}
	e.handOver(t)
	out := filepath.Join(e.dir, "a/deeper/out")
	args := []string{"build", "recipes/tiny", "--lock", "lock.json", "--offline", "--progress", "plain", "-o", out,
		"-j", "3"}
	umask := []string{"sh", "-c", `umask 077 && exec "$@"`, "sh"}
	env := []string{"TZ=Pacific/Auckland", "LANG=de_DE.UTF-8", "LC_ALL=tr_TR.UTF-8"}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		cmd := e.command(umask, env, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Squared, so that starting, the initrd and writing records get as many kills as the long unpacking and
		// compiling.
		f := random.Float64()
		time.Sleep(time.Duration(f * f * float64(4*time.Second)))
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
	}
	finish(t, e.command(umask, env, args...)).want(t, 0)
	finish(t, e.command(nil, nil, "store", "verify")).want(t, 0, "clean")
	if u, err := e.store.DU(); err != nil || u.Temp != 0 {
		t.Errorf("temporary files of killed builds stayed: %+v, %v", u, err)
	}
	m, want, err := manifest.Read(tiny(t), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files() {
		if err := digest.Check(filepath.Join(out, f.Path), f.Digest); err != nil {
			t.Error(err)
		}
	}
	if _, got, err := manifest.Read(out, ""); err != nil || got != want {
		t.Errorf("after 50 kills the manifest is %s, want %s (%v)", got, want, err)
	}
}

// TestAFullDiskIsSaidAndSurvived runs as root, which a mount of its own needs.
func TestAFullDiskIsSaidAndSurvived(t *testing.T) {
	need(t, root)
	dir := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=300m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s := seeded(t, filepath.Join(dir, "store"), store.Key{})
	env := []string{"KATABUILD_STORE=" + s.Dir()}
	out := filepath.Join(t.TempDir(), "out")
	args := []string{"--lock", "out/tiny.lock.json", "--offline", "-o", out}
	// Neither the tool-chain nor the kernel's source fits unpacked.
	katabuild(t, env, append([]string{"kernel", "recipes/tiny"}, args...)...).want(t, 1, "no space left on device",
		s.Dir())
	if u, err := s.DU(); err != nil || u.Temp != 0 {
		t.Errorf("something half-written stayed: %+v, %v", u, err)
	}
	// Fill what is left, so that the initrd does not fit either.
	filler := filepath.Join(dir, "filler")
	if data := make([]byte, 1<<20); true {
		f, err := os.Create(filler)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = f.Write(data)
		}
		_ = f.Close() // the disk is full: that is the point
	}
	katabuild(t, env, append([]string{"initrd", "recipes/tiny"}, args...)...).want(t, 1, "no space left on device")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	katabuild(t, env, "store", "verify").want(t, 0, "clean")
	katabuild(t, env, append([]string{"initrd", "recipes/tiny"}, args...)...).want(t, 0, "initrd.img")
}

// TestOfflineAsAPlainUserWithoutANetwork builds from a copy of the store, as nobody, where there is no interface at
// all.
func TestOfflineAsAPlainUserWithoutANetwork(t *testing.T) {
	need(t, testenv.Tool("unshare"), testenv.Tool("setpriv"), root)
	e := newElsewhere(t, "")
	// A whole build first, as root, so that only the plain user's run counts as offline from the store.
	katabuild(t, e.env(), "initrd", "recipes/tiny", "--lock", "out/tiny.lock.json", "-o",
		filepath.Join(e.dir, "first")).want(t, 0)
	copyActions(t, e.store)
	e.handOver(t)
	guest := filepath.Join(e.dir, "guest")
	r := finish(t, e.command([]string{"unshare", "-n"}, nil, "build", "recipes/tiny", "--lock", "lock.json",
		"--offline", "-o", guest))
	r.want(t, 0, "kernel: hit", "initrd: hit", "manifest.json")
	_, want, err := manifest.Read(tiny(t), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := manifest.Read(guest, ""); err != nil || got != want {
		t.Errorf("the plain user's manifest is %s, want %s (%v)", got, want, err)
	}
}

// copyActions brings the tiny guest's kernel into another store.
func copyActions(t *testing.T, to *store.Store) {
	t.Helper()
	from := usersStore(t)
	a := from.Last("tiny", "kernel")
	if a == nil {
		t.Fatal("the store has no tiny kernel; `make test-e2e` builds it")
	}
	for _, o := range a.Outputs {
		p, err := from.Get(o.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := to.PutFile(p, o.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.PutAction(a); err != nil {
		t.Fatal(err)
	}
}

var (
	fence = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	words = regexp.MustCompile(`^make ([a-z0-9-]+)`)
)

// TestEveryDocumentedCommandRuns runs each `katabuild` line of the sh blocks in README and docs, in order; make words
// must be in the Makefile, and those that CI cannot call from inside a test are what CI itself calls.
func TestEveryDocumentedCommandRuns(t *testing.T) {
	need(t)
	var files []string
	for _, g := range []string{"*.md", "docs/*.md", "docs/*/*.md"} {
		m, err := filepath.Glob(abs(t, g))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, m...)
	}
	makefile, err := os.ReadFile(abs(t, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "recipes"), os.DirFS(abs(t, "recipes"))); err != nil {
		t.Fatal(err)
	}
	// Locking is tried with the network in make test-network; here the lock is the one the guest was built from.
	for from, to := range map[string]string{"tiny": "tiny/lock", "tiny-aarch64": "tiny/lock-aarch64",
		"module": "module/lock"} {
		data, err := os.ReadFile(abs(t, "out/"+from+".lock.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "recipes", to+".json"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Commands that build on each other are run elsewhere: by TestTheCommandsOfThePageOnOptionsWork, by ci/test.sh and
	// TestKubernetesInstaller, and by scripts of cmd/katabuild.
	elsewhere := []string{"kernel-options.md", "kubernetes.md"}
	scripts, err := filepath.Glob(abs(t, "cmd/katabuild/testdata/script/*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		text, err := os.ReadFile(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^page (\S+\.md) `).FindAllStringSubmatch(string(text), -1) {
			elsewhere = append(elsewhere, m[1])
		}
	}
	if !slices.Contains(elsewhere, "releases.md") {
		t.Fatalf("the scripts run only %q", elsewhere)
	}
	docs := abs(t, "docs") + "/"
	ran := 0
	for _, f := range files {
		if slices.Contains(elsewhere, strings.TrimPrefix(f, docs)) {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range fence.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				line = strings.TrimSpace(line)
				if m := words.FindStringSubmatch(line); m != nil {
					if !bytes.Contains(makefile, []byte("\n"+m[1]+":")) {
						t.Errorf("%s: no make word %s", filepath.Base(f), m[1])
					}
					continue
				}
				args, ok := strings.CutPrefix(line, "katabuild ")
				if !ok {
					continue
				}
				cmd := command(t, nil, strings.Fields(args)...)
				cmd.Dir = dir
				if r := finish(t, cmd); r.code != 0 {
					t.Errorf("%s: %s: exit code %d\n%s%s", filepath.Base(f), line, r.code, r.out, r.err)
				}
				ran++
			}
		}
	}
	if ran < 5 {
		t.Errorf("only %d commands were found in the documents", ran)
	}
}
