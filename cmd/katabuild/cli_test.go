package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/builder/fetch/archivetest"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/releasetest"
)

func TestMain(m *testing.M) {
	jail.Main()
	testscript.Main(m, map[string]func(){"katabuild": main})
}

// repository is the root of the repository, as an absolute path.
var repository = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

// TestCommandLines runs a script for each word, in a folder and with a store of its own.
func TestCommandLines(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("KATABUILD_STORE", filepath.Join(e.WorkDir, ".store"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("REGISTRY", registrytest.Serve(t, nil))
			a := archivetest.New(t)
			e.Values[archiveKey{}] = &packages{a, t}
			e.Setenv("ARCHIVE", a.URL)
			e.Setenv("KEYRING", a.Keyring)
			l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
			if err == nil {
				e.Setenv("CACHE", l.Addr().String())
				err = l.Close()
			}
			if err != nil {
				return err
			}
			self, err := os.Executable() // a Go program, as the agent is
			e.Setenv("AGENT", self)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"guest":    writeGuest,
			"released": writeReleased,
			"stated":   writeStatement,
			"elf":      writeELF,
			"archive":  writePackages,
			"dropped":  dropPackages,
			"page":     writePage,
			"code":     code,
		},
		RequireExplicitExec: true,
	})
}

// writeGuest is the word guest: guest DIR writes the guest of documenttest.Manifest, and DIR.report.json as it would
// report.
func writeGuest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: guest DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(documenttest.WriteGuest(dir))
	data, err := documenttest.Report().Encode()
	ts.Check(err)
	ts.Check(os.WriteFile(dir+".report.json", data, 0o644))
}

// packages are a script's archive of Debian packages, whose name is archiveKey.
type packages struct {
	*archivetest.Archive
	t *testing.T
}

type archiveKey struct{}

// writePackages is the word archive: archive NAME... puts version 1 of packages into the script's archive.
func writePackages(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		a := ts.Value(archiveKey{}).(*packages)
		a.Add(a.t, archivetest.Package{Suite: "trixie", Name: name, Version: "1",
			Files: map[string]string{"/usr/share/" + name: name}})
	}
}

// dropPackages is the word dropped: dropped NAME... takes version 1 of packages out of the archive.
func dropPackages(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		ts.Value(archiveKey{}).(*packages).Remove(name, "1")
	}
}

// writeReleased is the word released: released DIR NAME ARCH [disk|LOCK] writes a guest that has booted, with a lock.
func writeReleased(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: released DIR NAME ARCH [disk|LOCK]")
	}
	l := &lock.Lock{Version: lock.Version, Name: args[1], Time: 1700000000, Inputs: []lock.Input{
		{Name: "file motd", Kind: lock.Local, Digest: digest.Of([]byte("motd")), Size: 4, Where: "motd"},
		{Name: "folder etc", Kind: lock.Tree, Digest: digest.Of([]byte("etc")), Where: "etc"},
		{Name: "kernel source", Kind: lock.Debian, Digest: digest.Of([]byte("source")), Size: 6,
			Package: &lock.Package{Suite: "trixie", Name: "linux-source-6.12", Version: "6.12.117-1", Arch: "all",
				Filename: "pool/main/l/linux/linux-source-6.12.deb"}}}}
	pinned, err := l.Encode()
	ts.Check(err)
	disk := len(args) > 3 && args[3] == "disk"
	if len(args) > 3 && !disk {
		pinned, err = os.ReadFile(ts.MkAbs(args[3]))
		ts.Check(err)
	}
	g := releasetest.Guest{Name: args[1], Arch: args[2], Mark: args[2], Lock: pinned, Disk: disk,
		Recipe: []byte("version: 1\nname: " + args[1] + "\n")}
	ts.Check(g.Write(ts.MkAbs(args[0])))
}

// writeStatement is the word stated: stated RELEASE KEY FROM puts the statement that KEY has reproduced the release
// FROM beside RELEASE.
func writeStatement(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: stated RELEASE KEY FROM")
	}
	by, err := keys.Read(ts.MkAbs(args[1]), nil)
	ts.Check(err)
	data, err := os.ReadFile(filepath.Join(ts.MkAbs(args[2]), folder.IndexName))
	ts.Check(err)
	at := filepath.Join(ts.MkAbs(args[0]), folder.ReproducedName)
	old, err := os.ReadFile(at)
	if !errors.Is(err, os.ErrNotExist) {
		ts.Check(err)
	}
	list, err := releasetest.Reproduced(data, old, by)
	ts.Check(err)
	ts.Check(os.WriteFile(at, list, 0o644))
}

// writeELF is the word elf: elf ARCH FILE writes what passes for a program of an architecture.
func writeELF(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: elf ARCH FILE")
	}
	data, err := releasetest.Program(args[0], args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o755))
}

// writePage is the word page: page FILE OUT writes the commands that a page of docs/ shows, as a script of the shell.
func writePage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: page FILE OUT")
	}
	text, err := os.ReadFile(filepath.Join(repository, "docs", args[0]))
	ts.Check(err)
	var script strings.Builder
	for i, part := range strings.Split(string(text), "\n```") {
		if commands, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			commands = strings.NewReplacer("localhost:5000", ts.Getenv("REGISTRY"), "localhost:9092",
				ts.Getenv("CACHE")).Replace(commands)
			for l := range strings.Lines(commands + "\n") {
				if !strings.HasPrefix(l, "kata-runtime ") { // whose own test has those
					script.WriteString(l)
				}
			}
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(script.String()), 0o644))
}

// code N COMMAND... runs a command that must end with that exit code; "any" is any.
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); args[0] != "any" && (err != nil || got != want) {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}
