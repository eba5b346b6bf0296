package containerd

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/katabuild/katabuild/ci/containerd/daemon"
	"github.com/katabuild/katabuild/internal/testenv"
)

// filesPage holds what is expected of each operation on files.
const filesPage = repository + "/docs/files.md"

// The lines of the page between which the table is.
const (
	tableBegins = "<!-- The table is made by `make files-table`; DO NOT EDIT. -->\n"
	tableEnds   = "<!-- The end of the table. -->\n"
)

// runcColumn is the name of the column that the others are compared with.
const runcColumn = "runc"

// fileColumns are how a guest gets its files, by the name of the column, and the lines of the configuration.
var fileColumns = []struct{ name, lines string }{
	{"virtio-fs auto", ""},
	{"virtio-fs always", "virtio_fs_cache = \"always\"\n"},
	{"virtio-fs never", "virtio_fs_cache = \"never\"\n"},
	{"9p", "shared_fs = \"virtio-9p\"\n"},
	{"virtio-fs auto, in C", "virtio_fs_daemon = \"/usr/lib/qemu/virtiofsd\"\n"},
	{"virtio-fs never, in C", "virtio_fs_daemon = \"/usr/lib/qemu/virtiofsd\"\nvirtio_fs_cache = \"never\"\n"},
}

// rootColumns are how a guest gets a container's root file system, by the name of the column, and the snapshotter.
var rootColumns = []struct{ name, snapshotter string }{
	{"root by virtio-fs", "overlayfs"},
	{"root on a disk", "blockfile"},
}

// fileResults are the results of the operations, by their names, which are in order too.
type fileResults struct {
	names []string
	said  map[string]string
}

// operate has a container do all operations in a folder of the host that is mounted at /v.
func operate(t *testing.T, c *client) fileResults {
	t.Helper()
	tools := filepath.Join(t.TempDir(), "toolbox")
	if err := os.WriteFile(tools, c.images.Toolbox, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r := c.ctr(t, nil, c.changed(t, c.id(), func(s *specs.Spec) {
		all := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
			"CAP_SETFCAP", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_ADMIN", "CAP_LEASE", "CAP_IPC_LOCK"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		s.Linux.Seccomp = nil
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: dir,
			Options: []string{"rbind", "rw"}},
			specs.Mount{Destination: "/toolbox", Type: "bind", Source: tools, Options: []string{"rbind", "ro"}})
		s.Process.Args = []string{"/toolbox", "fileops", "/v"}
	})...)
	return resultsOf(t, r)
}

// operateInRoot has a container do all operations in its root file system.
func operateInRoot(t *testing.T, c *client, snapshotter string) fileResults {
	t.Helper()
	flags := []string{"--rm", "--snapshotter", snapshotter}
	for _, capability := range []string{"CAP_SYS_ADMIN", "CAP_LEASE", "CAP_IPC_LOCK"} {
		flags = append(flags, "--cap-add", capability)
	}
	return resultsOf(t, c.ctr(t, nil, c.run(c.id(), flags, "toolbox", "fileops", "/")...))
}

// resultsOf reads what "toolbox fileops" said.
func resultsOf(t *testing.T, r result) fileResults {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("ended with %d: %s", r.code, r.err)
	}
	out := fileResults{said: map[string]string{}}
	for l := range strings.Lines(r.out) {
		name, said, ok := strings.Cut(strings.TrimSpace(l), "\t")
		if !ok {
			t.Fatalf("line %q", l)
		}
		out.names = append(out.names, name)
		out.said[name] = strings.ReplaceAll(said, "|", "")
	}
	return out
}

// expected is a column of the page.
func expected(t *testing.T, column string) map[string]string {
	t.Helper()
	page, err := os.ReadFile(filesPage)
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), tableBegins)
	table, _, ok := strings.Cut(table, tableEnds)
	if !ok {
		t.Fatalf("%s has no table", filesPage)
	}
	out, at := map[string]string{}, -1
	for l := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(l), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if at < 0 {
			at = slices.Index(cells, column)
			continue
		}
		if len(cells) > at && !strings.HasPrefix(cells[1], "-") {
			out[cells[1]] = cells[at]
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s has no column %q", filesPage, column)
	}
	return out
}

// compare tells where results are not those of a column of the page.
func compare(t *testing.T, column string, got fileResults) {
	t.Helper()
	want := expected(t, column)
	for _, name := range got.names {
		if got.said[name] != want[name] {
			t.Errorf("%s, %s: %s, and %s has %q", column, name, got.said[name], filesPage, want[name])
		}
	}
}

// rootFiles compares what comes of operations in root file systems with the page.
func rootFiles(t *testing.T, c *client) {
	for _, k := range rootColumns {
		compare(t, k.name, operateInRoot(t, c, k.snapshotter))
	}
}

// taskFiles compares what comes of operations on files with the page.
func taskFiles(t *testing.T, c *client) {
	if !c.Release.Two() {
		return // containerd has no part in it, and one is enough
	}
	if !c.guest() {
		compare(t, runcColumn, operate(t, c))
		return
	}
	for _, column := range []string{"virtio-fs auto", "9p"} {
		i := slices.IndexFunc(fileColumns, func(f struct{ name, lines string }) bool { return f.name == column })
		compare(t, column, operate(t, c.configured(t, fileColumns[i].lines)))
	}
}

// taskLocks has two pods with one volume. The locks are the first one's, and refused to the second, which has those on
// its other files.
func taskLocks(t *testing.T, c *client) {
	if !c.Release.Two() || !c.guest() {
		return // as with taskFiles; runc's containers have one kernel
	}
	tools := filepath.Join(t.TempDir(), "toolbox")
	if err := os.WriteFile(tools, c.images.Toolbox, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func(id string, flags []string, script string) result {
		args := slices.DeleteFunc(c.changed(t, id, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Type: "bind", Source: dir,
				Options: []string{"rbind", "rw"}},
				specs.Mount{Destination: "/toolbox", Type: "bind", Source: tools, Options: []string{"rbind", "ro"}})
			s.Process.Args = []string{"/bin/sh", "-c", script}
		}), func(a string) bool { return a == "--rm" })
		return c.ctr(t, nil, slices.Insert(args, 1, flags...)...)
	}
	const try = "for f in /v/f /tmp/f; do : >>$f; for k in flock posix ofd; do echo -n \"$(/toolbox fileop $k $f) " +
		"\"; done; done"
	const granted, refused = "0 0 0 ", "37 37 37 " // ENOLCK
	first := c.id()
	if r := run(first, []string{"-d"}, "("+try+") >/v/said; mv /v/said /v/first; exec /toolbox pause"); r.code != 0 {
		t.Fatal(r.err)
	}
	stop := func() {
		_ = c.ctr(t, nil, "task", "kill", "-s", "SIGKILL", first) // it may have ended
		until(t, patience, "the end of the first pod", func() bool {
			_ = c.ctr(t, nil, "task", "delete", first)
			return !slices.Contains(strings.Fields(c.ctr(t, nil, "task", "list", "-q").out), first)
		})
	}
	defer stop()
	until(t, patience, "the first pod's locks", func() bool { _, err := os.Stat(dir + "/first"); return err == nil })
	b, err := os.ReadFile(dir + "/first")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "locks of the first pod", string(b), granted+granted)
	equal(t, "locks of the second pod", run(c.id(), []string{"--rm"}, try).out, refused+granted)
	stop()
	equal(t, "locks of a pod that is alone", run(c.id(), []string{"--rm"}, try).out, granted+granted)
}

// TestFilesTable makes the table anew.
func TestFilesTable(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_FILES", "files-table"), root, testenv.Tool("containerd"),
		testenv.Tool("runc"))
	var columns []fileResults
	names := []string{runcColumn}
	on(t, "2", func(t *testing.T, s *setting) {
		c := newClient(t, s)
		setting := *s
		setting.kind, setting.config = "io.containerd.runc.v2", ""
		plain := *c
		plain.setting = &setting
		columns = append(columns, operate(t, &plain))
		for _, f := range fileColumns {
			columns, names = append(columns, operate(t, c.configured(t, f.lines))), append(names, f.name)
		}
	})
	blockfile := func(c *daemon.Config) { c.Snapshotter = "blockfile" }
	onDisks(t, "2", blockfile, func(t *testing.T, c *client) {
		for _, k := range rootColumns {
			columns, names = append(columns, operateInRoot(t, c, k.snapshotter)), append(names, k.name)
		}
	})
	var table bytes.Buffer
	fmt.Fprintf(&table, "| operation | %s |\n|%s\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)+1))
	for _, name := range columns[0].names {
		fmt.Fprintf(&table, "| %s |", name)
		for _, c := range columns {
			fmt.Fprintf(&table, " %s |", c.said[name])
		}
		table.WriteString("\n")
	}
	page, err := os.ReadFile(filesPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, _ := strings.Cut(string(page), tableBegins)
	_, after, ok := strings.Cut(rest, tableEnds)
	if !ok {
		t.Fatalf("%s has no place for a table", filesPage)
	}
	if err := os.WriteFile(filesPage, []byte(before+tableBegins+"\n"+table.String()+"\n"+tableEnds+after),
		0o644); err != nil {
		t.Fatal(err)
	}
}
