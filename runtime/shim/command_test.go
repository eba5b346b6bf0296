package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

func TestContainerdReadsWhereWeServeAndWhichMountsAreOurs(t *testing.T) {
	const address = "unix:///run/containerd/s/x"
	for _, old := range []int{0, 1} {
		if a, err := startAnswer(address, old); err != nil || a != address {
			t.Errorf("for one who knows version %d: %q, %v", old, a, err)
		}
	}
	for newest, version := range map[int]int32{2: 2, 3: 3, 4: 3} {
		a, err := startAnswer(address, newest)
		if err != nil {
			t.Fatal(err)
		}
		// As containerd 2.4 does: it tries the message's own encoding first.
		var r bootapi.BootstrapResult
		if proto.Unmarshal([]byte(a), &r) == nil {
			t.Errorf("%q is taken for another encoding", a)
		}
		r.Reset()
		if err := json.Unmarshal([]byte(a), &r); err != nil || r.Address != address || r.Protocol != "ttrpc" ||
			r.Version != version {
			t.Errorf("for one who knows version %d: %v, %v", newest, &r, err)
		}
		var own types.MountCapabilities
		if ok, err := r.FindExtension(&own); !ok || err != nil || strings.Join(own.Types, " ") != "erofs" ||
			strings.Join(own.Transforms, " ") != "format mkdir" {
			t.Errorf("our mounts: %v, %v, %v", &own, ok, err)
		}
	}
	b, err := Info("io.containerd.kata.v2", "1")
	if err != nil {
		t.Fatal(err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(b, &info); err != nil ||
		info.Annotations["containerd.io/runtime-allow-mounts"] != "erofs,format/*,mkdir/*" ||
		info.Version.Version != "1" {
		t.Errorf("%v, %v", &info, err)
	}
	var f features.Features
	if err := json.Unmarshal(info.Features.GetValue(), &f); err != nil ||
		info.Features.TypeUrl != "types.containerd.io/opencontainers/runtime-spec/1/features/Features" {
		t.Fatal(info.Features, err)
	}
	if !slices.Contains(f.MountOptions, "rro") || slices.Contains(f.MountOptions, "rshared") ||
		!slices.IsSorted(f.MountOptions) || f.OCIVersionMax != specs.Version {
		t.Errorf("%+v", f)
	}
	if m := f.Linux.MountExtensions; slices.Contains(f.Linux.Namespaces, "user") != *m.IDMap.Enabled ||
		!*f.Linux.Seccomp.Enabled {
		t.Errorf("%+v", f.Linux) // a user namespace is of no use to a host without mounts that have its owners
	}
}

// bundle makes a bundle with a config.json.
func bundle(t *testing.T, annotations string) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/config.json", []byte(`{"annotations": {`+annotations+`}}`), 0o644),
		unix.Mkfifo(dir+"/"+logFile, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestAShimIsStartedOnceAPodAndDeletedAfterItsEnd has a program that only keeps the socket it inherits.
func TestAShimIsStartedOnceAPodAndDeletedAfterItsEnd(t *testing.T) {
	if !testenv.Inside(t, syscall.CLONE_NEWNS) {
		return
	}
	testenv.Require(t, testenv.Tool("sh"))
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	self := dir + "/shim"
	script := "#!/bin/sh\necho $$ >" + dir + "/pid\necho a word >&2\nexec sleep 60\n"
	if err := os.WriteFile(self, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	pause := bundle(t, `"io.kubernetes.cri.container-type": "sandbox"`)
	member := bundle(t, `"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "p"`)
	begin := func(id, bundle string) (string, error) {
		return Start(StartOptions{ID: id, Namespace: "n", Address: "/a", Bundle: bundle, MaxVersion: 3, Self: self,
			Env: os.Environ()})
	}
	if _, err := begin("c", member); err == nil || !strings.Contains(err.Error(), "the pod p, which does not run") {
		t.Errorf("a container without its pod: %v", err)
	}
	first, err := begin("p", pause)
	if err != nil {
		t.Fatal(err)
	}
	log, err := openLog(pause)
	if err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 7)
	if err := log.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(log, word); err != nil || string(word) != "a word\n" {
		t.Errorf("its last words are %q, %v", word, err)
	}
	// The log of a shim that serves: what nobody reads is dropped, and stops nobody.
	if l, err := OpenLog(pause); err != nil {
		t.Error(err)
	} else {
		for range 100 {
			if n, err := l.Write(make([]byte, 4096)); n != 4096 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
		}
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if _, err := begin("p", pause); err == nil || !strings.Contains(err.Error(), "somebody serves") {
		t.Errorf("a second one: %v", err)
	}
	if second, err := begin("c", member); err != nil || second != first {
		t.Errorf("a container of the pod is served at %s, %v; want %s", second, err, first)
	}
	if a, err := os.ReadFile(member + "/" + addressFile); err != nil || !strings.Contains(first, string(a)) {
		t.Errorf("address %q, %v", a, err)
	}

	dirs := record.Dirs{State: dir + "/state", Share: dir + "/share"}
	if _, err := record.Begin(dirs, record.Record{ID: "p"}); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		ids, err := record.List(dirs)
		if err != nil {
			t.Error(err)
		}
		return len(ids)
	}
	end := DeleteOptions{ID: "c", Namespace: "n", Address: "/a", Bundle: member, Dirs: dirs}
	if _, err := Delete(end); err != nil || left() != 1 {
		t.Errorf("%d pods, %v: a container whose shim serves takes its pod with it", left(), err)
	}
	var pid int
	if b, err := os.ReadFile(dir + "/pid"); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Error(err)
	}
	var r taskapi.DeleteResponse
	if b, err := Delete(end); err != nil || proto.Unmarshal(b, &r) != nil || r.ExitStatus != 137 || left() != 0 {
		t.Errorf("%v, %v, %d pods", &r, err, left())
	}
	if list, err := os.ReadDir(socketDir); err != nil || len(list) > 0 {
		t.Errorf("sockets stay: %v, %v", list, err)
	}
	if err := errors.Join(os.MkdirAll(dirs.State+"/p", 0o700),
		os.WriteFile(dirs.State+"/p/state.json", []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Delete(end); err == nil || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("a record that cannot be read: %v", err)
	}
}

func TestABundleThatIsNoneIsTold(t *testing.T) {
	dir := bundle(t, "")
	for what, change := range map[string]func() error{
		"gone":           func() error { return nil },
		"no JSON":        func() error { return os.WriteFile(dir+"/config.json", []byte("{"), 0o644) },
		"a folder":       func() error { return os.Mkdir(dir+"/config.json", 0o755) },
		"much too large": func() error { return os.WriteFile(dir+"/config.json", make([]byte, maxSpec+1), 0o644) },
	} {
		if err := errors.Join(os.RemoveAll(dir+"/config.json"), change()); err != nil {
			t.Fatal(err)
		}
		if s, err := readSpec(dir); err == nil || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("%s: %v, %v", what, s, err)
		}
		if a, err := Start(StartOptions{ID: "c", Bundle: dir}); err == nil {
			t.Errorf("%s: %q", what, a)
		}
	}
}
