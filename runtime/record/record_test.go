package record

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/guest"
)

func example() *Record {
	return &Record{
		Version: Version, ID: "p1", State: Running, Created: "2026-11-24T12:00:00Z", Guest: "/srv/guest",
		Shim: HostProcess{10, 100}, QEMU: HostProcess{11, 101}, Command: []string{"qemu-system-x86_64", "-S"},
		Netns: "/var/run/netns/x",
		Links: []string{"eth0 kbtap0"}, Share: true, Cgroup: []string{"/sys/fs/cgroup/kata_p1"},
		Containers: []string{"p1"},
		Verdict: &verdict.Verdict{Version: 1, Guest: "g", Manifest: digest.Of([]byte("m")),
			Result: verdict.Attested, Claims: []verdict.Claim{{Name: "init", Want: "a", Got: "a", Met: true}}},
		Annotations: map[string]string{"a": "b"},
	}
}

func TestTheRecordIsCanonical(t *testing.T) {
	b, err := document.Encode(example())
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "state.json", b)
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, example()) {
		t.Errorf("%+v, %v", got, err)
	}
	for what, change := range map[string][2]string{
		"another version": {`"version": 1`, `"version": 2`}, "an unknown field": {`"netns"`, `"nets"`},
		"cut": {"}\n", ""},
	} {
		if _, err := Decode([]byte(strings.Replace(string(b), change[0], change[1], 1))); err == nil {
			t.Errorf("%s is read", what)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := document.Encode(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	// a newer program's
	f.Add([]byte(`{"version": 2, "qemu": {"pid": 1, "start": 1}, "netns": "/x", "links": ["a b"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		left, err := remainsOf(b)
		if _, other := errors.AsType[*versionError](err); err != nil && !other && !reflect.DeepEqual(left, remains{}) {
			t.Errorf("%+v of what cannot be read: %v", left, err)
		}
		r, err := Decode(b)
		if err != nil {
			return
		}
		if again, err := document.Encode(r); err != nil || string(again) != string(b) {
			t.Errorf("%q, %v", again, err)
		}
	})
}

func TestIdsThatWouldLeadElsewhereAreRefused(t *testing.T) {
	for _, id := range []string{"", ".", "..", "../x", "a/b", "-x", "a b", strings.Repeat("a", maxID+1)} {
		if CheckID(id) == nil {
			t.Errorf("%q is an id", id)
		}
		if err := Clean(Dirs{State: t.TempDir()}, id); err == nil {
			t.Errorf("%q is cleaned up after", id)
		}
	}
	for _, id := range []string{"a", strings.Repeat("0123456789abcdef", 4)} {
		if err := CheckID(id); err != nil {
			t.Error(err)
		}
	}
	// The longest socket of the longest id has a path that fits: sun_path of <linux/un.h> has 108 bytes, one of them a
	// NUL.
	for _, p := range []string{Dirs{}.VsockSocket(strings.Repeat("a", maxID)),
		Dirs{}.MonitorSocket(strings.Repeat("a", maxID))} {
		if len(p) > 107 {
			t.Errorf("a path of %d bytes: %s", len(p), p)
		}
	}
}

func TestCleanEndsExactlyTheProcessesOfTheRecord(t *testing.T) {
	testenv.Require(t, testenv.Tool("sleep"))
	start := func() *exec.Cmd {
		c := exec.Command("sleep", "600")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		return c
	}
	ours, other := start(), start()
	ended := make(chan error, 1)
	go func() { ended <- ours.Wait() }()
	d := Dirs{State: t.TempDir(), Share: t.TempDir()}
	r := example()
	r.QEMU = ProcessOf(ours.Process.Pid)
	r.VirtioFSD = HostProcess{other.Process.Pid, 1} // its number was another's once
	r.Netns, r.Cgroup = "", []string{filepath.Join(t.TempDir(), "kata_p1")}
	b, err := document.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.State, "p1")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, file), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	if ids, err := List(d); err != nil || !slices.Equal(ids, []string{"p1"}) {
		t.Error(ids, err)
	}
	if err := Clean(d, "p1"); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the record's process still runs")
	}
	if !ProcessOf(other.Process.Pid).Alive() {
		t.Error("a process that only has the number was killed")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := Clean(d, "p1"); err != nil {
		t.Error("again:", err)
	}
	// One that cannot be read is left for a person.
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, file), []byte("{"),
		0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Clean(d, "p1"); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Error(err)
	}
}

func TestTheRecordOfAGuestWithoutAManifestHasItsFiles(t *testing.T) {
	r := example()
	r.Guest, r.Verdict, r.Files = "", verdict.Nothing("kata.img"),
		[]guest.Booted{{Path: "/k", Digest: digest.Of([]byte("k"))}, {Path: "/i", Digest: digest.Of([]byte("i"))}}
	b, err := document.Encode(r)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "plain.json", b)
	if got, err := Decode(b); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestARecordOfTheVersionBeforeIsReadAndOfNoOther(t *testing.T) {
	b, err := document.Encode(example())
	if err != nil {
		t.Fatal(err)
	}
	today := func([]byte) (*Record, error) { return nil, errors.New("it is read as another version") }
	if r, err := decode(b, map[int]reader{1: read1, 2: today}); err != nil || !reflect.DeepEqual(r, example()) {
		t.Errorf("by a program of version 2: %+v, %v", r, err)
	}
	for v, readers := range map[int]map[int]reader{1: {2: today, 3: today}, 7: readers()} {
		of := strings.Replace(string(b), `"version": 1`, fmt.Sprintf(`"version": %d`, v), 1)
		r, err := decode([]byte(of), readers)
		if e, is := errors.AsType[*versionError](err); !is || e.Version != v ||
			!strings.Contains(err.Error(), fmt.Sprintf("version %d", v)) {
			t.Errorf("version %d: %+v, %v", v, r, err)
		}
	}
	known := readers()
	if len(known) > 2 || known[Version] == nil || Version > 1 && known[Version-1] == nil {
		t.Errorf("this program is of version %d and reads %d versions", Version, len(known))
	}
	for v := range known {
		if !strings.Contains(readable, fmt.Sprint(v)) {
			t.Errorf("people are told that %s can be read, and not %d", readable, v)
		}
	}
}

func TestCleaningUpAfterANewerProgramDoesWhatItCan(t *testing.T) {
	testenv.Require(t, testenv.Tool("sleep"))
	for what, c := range map[string]struct {
		change func(text string) string
		kills  bool
	}{
		"one with more fields": {func(s string) string {
			return strings.Replace(s, `"share"`, `"memory": {"file": "/x"}, "share"`, 1)
		}, true},
		"one that cannot be made out": {func(s string) string {
			return strings.Replace(s, `"links": [`,
				`"links": [1,`, 1)
		},
			false},
	} {
		t.Run(what, func(t *testing.T) {
			qemu := exec.Command("sleep", "600")
			if err := qemu.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- qemu.Wait() }()
			d := Dirs{State: t.TempDir(), Share: t.TempDir()}
			r := example()
			r.QEMU, r.VirtioFSD, r.Netns, r.Cgroup = ProcessOf(qemu.Process.Pid), HostProcess{}, "", []string{}
			b, err := document.Encode(r)
			if err != nil {
				t.Fatal(err)
			}
			text := c.change(strings.Replace(string(b), `"version": 1`, `"version": 9`, 1))
			if err := errors.Join(os.Mkdir(d.Folder("p1"), 0o700),
				os.WriteFile(filepath.Join(d.Folder("p1"), file), []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(d, "p1"); err == nil || !strings.Contains(err.Error(), "version 9") {
				t.Errorf("it is read: %v", err)
			}
			for range 2 {
				err := Clean(d, "p1")
				if e, is := errors.AsType[*versionError](err); !is || e.Version != 9 ||
					!strings.Contains(err.Error(), d.Folder("p1")) {
					t.Errorf("the error says neither version nor folder: %v", err)
				}
			}
			if !c.kills {
				if !r.QEMU.Alive() {
					t.Error("a process was killed whose record cannot be made out")
				}
				if err := qemu.Process.Kill(); err != nil {
					t.Error(err)
				}
			}
			select { // one that nobody has waited for yet is still there, by its number
			case <-ended:
			case <-time.After(30 * time.Second):
				t.Error("the process was not killed")
			}
			if _, err := os.Stat(d.Folder("p1")); err != nil {
				t.Errorf("the newer program finds nothing any more: %v", err)
			}
		})
	}
}

func TestARecordIsOnDiskFromTheBegin(t *testing.T) {
	d := Dirs{State: t.TempDir() + "/state"}
	if _, err := Begin(d, Record{ID: "../x"}); err == nil {
		t.Error("an id that is a path is taken")
	}
	f, err := Begin(d, Record{ID: "p1", Guest: "/g"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Begin(d, Record{ID: "p1"}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a second pod of that name: %v", err)
	}
	if err := f.Note(func(r *Record) { r.State = Running }); err != nil {
		t.Error(err)
	}
	r, err := Read(d, "p1")
	if err != nil || r.State != Running || r.Version != Version || !r.Shim.Alive() || r.Guest != "/g" {
		t.Errorf("%+v, %v", r, err)
	}
	if err := f.End(); err != nil {
		t.Error(err)
	}
	if _, err := Read(d, "p1"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if ids, err := List(d); err != nil || len(ids) > 0 {
		t.Errorf("%v, %v", ids, err)
	}
	if w := (Dirs{}).WithDefaults(); w.State != DefaultState || w.Share != DefaultShare ||
		w.Monitor != defaultMonitor {
		t.Errorf("%+v", w)
	}
}
