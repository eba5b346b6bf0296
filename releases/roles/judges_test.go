package roles_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/releases/ceremony"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/roles"
)

// fetcher gives go-tuf's own client the files of a folder.
type fetcher string

func (f fetcher) DownloadFile(address string, limit int64, _ time.Duration) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(f), path.Base(address)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: address}
	}
	if int64(len(data)) > limit {
		return nil, &metadata.ErrDownloadLengthMismatch{}
	}
	return data, err
}

// busy is a repository in which much has happened: a delegated channel, other root keys, two releases.
func busy(t *testing.T) (r *repository, two []byte) {
	one, two, experimental := releases(t)
	r = newRepository(t)
	r.offer(one)
	r.do(func(c *ceremony.Repository) error {
		return c.Rotate(roles.Root, ceremony.Rotation{Off: []string{"alice"}, On: r.party("frank").Keys}, r.when())
	})
	r.sign("alice", "bob-p256", "frank")
	r.do(func(c *ceremony.Repository) error {
		return c.Delegate("testing", []string{"testing"}, r.party("erin-p256"), r.when())
	})
	r.sign("carol", "dave", "erin-p256")
	r.offer(two, experimental)
	r.sign("erin-p256")
	r.refresh()
	return r, two
}

func TestTheClientOfGoTUFFollowsOurMetadata(t *testing.T) {
	r, two := busy(t)
	c, err := config.New("http://metadata.example/", r.read("1.root.json"))
	r.fine(err)
	c.Fetcher, c.LocalMetadataDir, c.LocalTargetsDir = fetcher(r.dir), t.TempDir(), t.TempDir()
	u, err := updater.New(c)
	r.fine(err)
	u.UnsafeSetRefTime(r.now)
	for _, want := range []string{"stable/1.0.0", "stable/1.1.0", "testing/1.1.0"} {
		target, err := u.GetTargetInfo(want)
		if err != nil {
			t.Fatal(err)
		}
		if want == "stable/1.1.0" {
			r.fine(target.VerifyLengthHashes(two))
		}
	}
	if v := u.GetTrustedMetadataSet().Root.Signed.Version; v != 2 {
		t.Errorf("it stands at root %d", v)
	}
}

// python is that of Debian, whose packages it has.
const python = "/usr/bin/python3"

// judge verifies, with the library on which python-tuf stands, every signature in a folder of metadata.
const judge = `
import json, pathlib, sys
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, Signature
files = {p.name: json.loads(p.read_text()) for p in pathlib.Path(sys.argv[1]).glob("*.json")}
keys = {}
for f in files.values():
    for where in (f["signed"], f["signed"].get("delegations", {})):
        keys.update(where.get("keys", {}))
n = 0
for name, f in sorted(files.items()):
    payload = encode_canonical(f["signed"]).encode()
    for s in f["signatures"]:
        key = Key.from_dict(s["keyid"], json.loads(json.dumps(keys[s["keyid"]])))
        key.verify_signature(Signature.from_dict(dict(s)), payload)
        n += 1
print(n)
`

func TestAnotherLibraryVerifiesEverySignature(t *testing.T) {
	testenv.Require(t, testenv.Func("python3-securesystemslib", func() error {
		return exec.Command(python, "-c", "import securesystemslib").Run()
	}))
	r, _ := busy(t)
	count := func() []byte {
		out, err := exec.Command(python, "-c", judge, r.dir).CombinedOutput()
		if err != nil {
			return nil
		}
		return bytes.TrimSpace(out)
	}
	want := 0
	for _, data := range r.files() {
		h, err := roles.ReadHead(data)
		r.fine(err)
		want += len(h.Signatures)
	}
	if got := count(); string(got) != strconv.Itoa(want) {
		t.Fatalf("it verified %s of %d", got, want)
	}
	r.write("timestamp.json", bytes.Replace(r.read("timestamp.json"), []byte("2026-12-02"), []byte("2026-12-03"), 1))
	if got := count(); got != nil {
		t.Errorf("it verified %s though a file was changed", got)
	}
}

func TestAMemoryHasOneForm(t *testing.T) {
	m := &roles.Memory{Version: roles.MemoryVersion, Root: []byte("root"), Timestamp: []byte("timestamp"),
		Snapshot: []byte("snapshot"), Targets: []roles.Kept{{Role: "stable", Data: []byte("list")}},
		Revoked: []string{"0123"}}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "memory.json", data)
	if _, err := roles.DecodeMemory(data); err != nil {
		t.Error(err)
	}
}

func TestASetHasOneForm(t *testing.T) {
	s := &roles.Set{Version: roles.SetVersion, Files: []roles.File{{Name: "1.root.json", Data: []byte("root")},
		{Name: "1.targets.json", Data: []byte("list")}, {Name: "timestamp.json", Data: []byte("timestamp")}}}
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "set.json", data)
	for name, text := range map[string]string{"another version": strings.Replace(string(data), ": 1", ": 2", 1),
		"a name that leads elsewhere": strings.Replace(string(data), "1.root", "../1.root", 1),
		"a name twice":                strings.Replace(string(data), "1.targets", "1.root", 1),
		"a version of nothing":        strings.Replace(string(data), "1.root", "0.root", 1),
		"a timestamp with a version":  strings.Replace(string(data), "timestamp.json", "1.timestamp.json", 1)} {
		if _, err := roles.DecodeSet([]byte(text)); err == nil || text == string(data) {
			t.Errorf("%s is read", name)
		}
	}
}

func FuzzSet(f *testing.F) {
	data, err := os.ReadFile("testdata/set.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := roles.DecodeSet(data)
		if err != nil {
			return
		}
		if again, err := s.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is read and written as %q, %v", data, again, err)
		}
		if _, err := roles.Collect(t.Context(), s); err == nil && len(s.Files) < 4 {
			t.Errorf("%q is all that clients need", data)
		}
	})
}

func FuzzMemory(f *testing.F) {
	data, err := os.ReadFile("testdata/memory.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := roles.DecodeMemory(data)
		if err != nil {
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is read and written as %q, %v", data, again, err)
		}
	})
}

// dying is a source that kills its own process when it is asked for the nth time.
type dying struct {
	folder
	left int
}

func (d *dying) File(ctx context.Context, name string, limit int64) ([]byte, error) {
	if d.left--; d.left == 0 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return nil, err
		}
	}
	return d.folder.File(ctx, name, limit)
}

// dies is the variable that has the test's own process die: the folder, the memory, the time and the number.
const dies = "KATABUILD_TEST_ROLES_DIE"

func TestAHostThatIsKilledGoesOn(t *testing.T) {
	if how := strings.Fields(os.Getenv(dies)); len(how) == 3 {
		n, err := strconv.Atoi(how[2])
		if err != nil {
			t.Fatal(err)
		}
		root, err := os.ReadFile(filepath.Join(how[0], "1.root.json"))
		if err != nil {
			t.Fatal(err)
		}
		_, release := releasetest.Release(t, "1.1.0", releasetest.Guest{})
		c := roles.Client{Root: root, From: &dying{folder(how[0]), n}, Memory: how[1]}
		if _, err := c.Release(t.Context(), epoch, release); err != nil {
			t.Fatal(err)
		}
		return
	}
	r, two := busy(t)
	c := r.client()
	// Asked for are the third root, which is not there, after the second; timestamp, snapshot, targets.
	for n := 1; n <= 5; n++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAHostThatIsKilledGoesOn$")
		// It cannot remove its own temporary files.
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), fmt.Sprintf("%s=%s %s %d", dies, r.dir, c.Memory, n))
		var exit *exec.ExitError
		if out, err := cmd.CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("at %d it did not die: %v: %s", n, err, out)
		}
		if m, err := os.ReadFile(c.Memory); err == nil {
			if _, err := roles.DecodeMemory(m); err != nil {
				t.Errorf("at %d: %v", n, err)
			}
		}
	}
	if _, err := r.ask(c, two); err != nil {
		t.Error(err)
	}
}

// anything is a source that answers with the same bytes, whatever it is asked for.
type anything struct {
	repository roles.Source
	name       string // for which it does so; the others are a repository's
	data       []byte
}

func (a anything) File(ctx context.Context, name string, limit int64) ([]byte, error) {
	if name == a.name {
		return a.data, nil
	}
	return a.repository.File(ctx, name, limit)
}

// FuzzMetadata has a host meet metadata that nobody has signed so: it must be refused, or be an error, and nothing may
// panic. The seeds are those that make go-tuf 2.4.2 panic.
func FuzzMetadata(f *testing.F) {
	r := newRepository(f)
	_, release := releasetest.Release(f, "1.0.0", releasetest.Guest{})
	r.offer(release)
	for name, data := range r.files() {
		f.Add(name, data)
	}
	f.Add("2.targets.json", []byte(`{"signed":{"_type":"targets","version":2,"targets":{"x":null}},"signatures":[]}`))
	f.Add("timestamp.json", []byte(`{"signed":{"_type":"timestamp","version":9,"meta":{"snapshot.json":null}}}`))
	f.Add("2.root.json", []byte(`{"signed":{"_type":"root","version":2,"keys":{"a":null},"roles":{"root":null}}}`))
	files, from, memory := r.files(), folder(r.dir), filepath.Join(f.TempDir(), "roles.json")
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		c := roles.Client{Root: files["1.root.json"], From: anything{from, name, data}, Memory: memory}
		_, err := c.Release(t.Context(), epoch, release)
		if mine := files[name]; err == nil && mine != nil && !bytes.Equal(mine, data) {
			h, err := roles.ReadHead(data)
			was, _ := roles.ReadHead(mine)
			if name != "1.root.json" && (err != nil || !bytes.Equal(h.Payload, was.Payload)) {
				t.Errorf("%s was taken: %q", name, data)
			}
		}
		if err := os.Remove(memory); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	})
}
