package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/boottest"
	"github.com/katabuild/katabuild/runtime/agentctl"
	"github.com/katabuild/katabuild/runtime/record"
)

// copyFiles copies files into a guest and its container, and out of them.
func copyFiles(t *testing.T, root string, kataRuntime func(io.Reader, ...string) (string, int)) {
	t.Helper()
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // 256 KiB
	rootfs := filepath.Join(dir, "rootfs")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "tree/sub"), 0o750), os.MkdirAll(filepath.Join(rootfs, "data"), 0o755),
		os.WriteFile(filepath.Join(dir, "tree/big"), big, 0o640),
		os.WriteFile(filepath.Join(dir, "tree/sub/file"), []byte("text"), 0o600),
		os.Symlink("sub/file", filepath.Join(dir, "tree/link")),
		os.Symlink("/", filepath.Join(rootfs, "escape")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	program := boottest.Build(t, "../../runtime/agentctl", "build", "-trimpath", "-ldflags=-s -w", "./testdata/program")
	if err := os.Link(program, filepath.Join(rootfs, "program")); err != nil {
		t.Fatal(err)
	}
	at := agentctl.Address{Path: record.Dirs{State: root}.VsockSocket("booted"), Hybrid: true, Port: agentapi.Port}
	conn, err := at.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := agentctl.New(conn, agentctl.Options{Out: io.Discard, Timeout: 3 * time.Minute})
	defer s.Close()
	for _, line := range []string{"CreateSandbox", "CreateContainer cid=held rootfs=" + rootfs +
		` args=["/program","inside","hold"]`, "StartContainer cid=held"} {
		if err := s.Do(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	for name, place := range map[string]string{"guest": "booted:/", "container": "held@booted:/data/"} {
		back := filepath.Join(dir, name)
		if _, code := kataRuntime(nil, "cp", filepath.Join(dir, "tree"), place+"there"); code != 0 {
			t.Errorf("%s: into it: %d", name, code)
			continue
		}
		if _, code := kataRuntime(nil, "cp", place+"there", back); code != 0 {
			t.Errorf("%s: out of it: %d", name, code)
			continue
		}
		got, err := os.ReadFile(filepath.Join(back, "big"))
		if err != nil || !bytes.Equal(got, big) {
			t.Errorf("%s: %d bytes came back, %v", name, len(got), err)
		}
		if to, err := os.Readlink(filepath.Join(back, "link")); err != nil || to != "sub/file" {
			t.Errorf("%s: %q, %v", name, to, err)
		}
		if st, err := os.Stat(filepath.Join(back, "sub/file")); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	// A container's link leads nobody into the guest.
	if _, code := kataRuntime(nil, "cp", "held@booted:/escape/proc/version", dir); code != 1 {
		t.Errorf("through a link of the container: %d", code)
	}
	if _, err := os.Stat(filepath.Join(dir, "version")); err == nil {
		t.Error("a file of the guest came out of the container")
	}
	if out, code := kataRuntime(strings.NewReader("ls -d /there /data\n"), "exec", "booted"); code != 0 ||
		!strings.Contains(out, "/there") {
		t.Errorf("%q, %d", out, code)
	}
	if err := s.Do(t.Context(), "RemoveContainer cid=held"); err != nil {
		t.Error(err)
	}
}
