package objcache

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestMain(m *testing.M) {
	if IsCompiler(os.Args[0]) {
		os.Exit(Compile(os.Args, os.Environ(), os.Stderr))
	}
	os.Exit(m.Run())
}

// line is how the kernel's make calls the compiler.
const line = "gcc -Wp,-MMD,./.main.o.d -nostdinc -I./arch/include -I./include -I./include/uapi " +
	"-include ./include/linux/kconfig.h -O2 -Wall -fno-strict-aliasing -DKBUILD_MODNAME='\"main\"' -c -o main.o main.c"

// tree is a small kernel tree.
func smallTree() map[string]string {
	return map[string]string{
		"include/generated/autoconf.h": "/*\n * Automatically generated file; DO NOT EDIT.\n */\n" +
			"#define CONFIG_USED 1\n#define CONFIG_UNUSED 1\n#define CONFIG_TEXT \"a\"\n#define CONFIG_M_MODULE 1\n",
		"include/linux/kconfig.h": "#ifndef K\n#define K\n#include <generated/autoconf.h>\n" +
			"#define IS_MODULE(option) defined(option##_MODULE)\n#endif\n",
		"include/linux/a.h":   "#include <uapi/b.h>\n#define A 1\nextern int unused_function(int);\n",
		"include/uapi/b.h":    "#define B 2\n",
		"include/deep/un.h":   "#define UN 1\n",
		"include/trace/def.h": "#define HEADER <deep/un.h>\n#include HEADER\n",
		"local/c.h":           "#include \"d.h\"\n",
		"local/d.h":           "#define D 4\n",
		"arch/include/x.h":    "",
		"main.c": "#include <linux/a.h>\n#include \"local/c.h\"\n#include <trace/def.h>\n" +
			"#ifdef CONFIG_USED\nint used = A + B + D;\n#endif\n" +
			"#ifdef CONFIG_M_MODULE\nint m = 1;\n#endif\nint f(void) { int warned; return 1; }\n",
	}
}

// work is a tree in which a build runs.
type work struct {
	t      *testing.T
	dir    string
	levels []string
}

func newWork(t *testing.T) *work {
	testenv.Require(t, testenv.Tool("gcc"))
	w := &work{t: t, dir: t.TempDir(), levels: []string{t.TempDir()}}
	for name, text := range smallTree() {
		w.write(name, text)
	}
	return w
}

func (w *work) write(name, text string) {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// settle waits until files are old enough to be believed.
func (w *work) settle() { time.Sleep(2 * settled) }

// result is what a build left.
type result struct {
	files   map[string]string
	said    string
	objects []Object
	code    int
}

// run runs a script, with the cache or without.
func (w *work) run(script string, cached bool) result {
	w.t.Helper()
	old, _ := filepath.Glob(filepath.Join(w.dir, "*.o"))
	for _, o := range append(old, filepath.Join(w.dir, ".main.o.d")) {
		os.Remove(o)
	}
	var r result
	said := filepath.Join(w.t.TempDir(), "said")
	script = fmt.Sprintf("cd '%s' && { %s\n} 2>'%s'", w.dir, script, said)
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if cached {
		compilers := w.t.TempDir()
		exe, err := os.Executable()
		if err != nil {
			w.t.Fatal(err)
		}
		if err := os.Symlink(exe, filepath.Join(compilers, "gcc")); err != nil {
			w.t.Fatal(err)
		}
		report := filepath.Join(w.t.TempDir(), "report")
		r.code, err = Server{Compilers: compilers, Levels: w.levels, Report: report,
			Args: []string{"sh", "-c", script}, Env: env, Now: time.Now}.Run()
		if err != nil {
			w.t.Fatal(err)
		}
		f, err := os.Open(report)
		if err != nil {
			w.t.Fatal(err)
		}
		defer f.Close()
		r.objects = ReadReport(f)
	} else {
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Env = env
		_ = cmd.Run()
		r.code = cmd.ProcessState.ExitCode()
	}
	data, err := os.ReadFile(said)
	if err != nil {
		w.t.Fatal(err)
	}
	r.said = string(data)
	r.files = map[string]string{}
	for _, name := range []string{"main.o", ".main.o.d", "second.o"} {
		if data, err := os.ReadFile(filepath.Join(w.dir, name)); err == nil {
			r.files[name] = string(data)
		}
	}
	return r
}

// build builds with the cache, compares what comes of it with what the compiler itself makes, and says whether the
// object came from the cache.
func (w *work) build(script string) bool {
	w.t.Helper()
	w.settle()
	got, want := w.run(script, true), w.run(script, false)
	if got.code != want.code || got.said != want.said {
		w.t.Fatalf("with the cache: code %d, said\n%s\nwithout: code %d, said\n%s", got.code, got.said, want.code,
			want.said)
	}
	if len(got.files) != len(want.files) {
		w.t.Fatalf("with the cache %d files, without %d", len(got.files), len(want.files))
	}
	for name, data := range want.files {
		if got.files[name] != data {
			w.t.Fatalf("%s has other bytes with the cache", name)
		}
	}
	return len(got.objects) > 0 && got.objects[0].Cached
}

func (w *work) each(do func(path string)) {
	for _, l := range w.levels {
		err := filepath.WalkDir(l, func(p string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				do(p)
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestAnObjectIsTakenOnlyIfTheCompilerWouldMakeIt(t *testing.T) {
	const config = "include/generated/autoconf.h"
	tree := smallTree()
	for name, c := range map[string]struct {
		change func(w *work) string // returns another script, or ""
		hit    bool
	}{
		"nothing changed":      {func(w *work) string { return "" }, true},
		"the same bytes, anew": {func(w *work) string { w.write("main.c", tree["main.c"]); return "" }, true},
		"the source changed": {func(w *work) string {
			w.write("main.c",
				tree["main.c"]+"int x;\n")
			return ""
		}, false},
		"a header changed": {func(w *work) string {
			w.write("include/uapi/b.h",
				"#define B 3\n")
			return ""
		}, false},
		"a header that is not read": {func(w *work) string { w.write("arch/include/x.h", "int y;\n"); return "" },
			true},
		"an option that is used changed": {func(w *work) string {
			w.write(config, strings.Replace(tree[config], "#define CONFIG_USED 1\n", "", 1))
			return ""
		}, false},
		"an option that is used as a module changed": {func(w *work) string {
			w.write(config, strings.Replace(tree[config], "CONFIG_M_MODULE", "CONFIG_M", 1))
			return ""
		}, false},
		"an option that is not used changed": {func(w *work) string {
			w.write(config, strings.Replace(tree[config], "CONFIG_UNUSED 1", "CONFIG_UNUSED 2",
				1)+"#define CONFIG_NEW 1\n")
			return ""
		}, true},
		"a configuration that is none": {func(w *work) string {
			w.write(config, tree[config]+"#define CONFIG_NEW CONFIG_USED\n")
			return ""
		}, false},
		"a header appears in an earlier folder": {func(w *work) string {
			w.write("arch/include/linux/a.h", "#define A 7\n#define B 2\n")
			return ""
		}, false},
		"a header appears in an earlier folder for one that a macro names": {func(w *work) string {
			w.write("arch/include/deep/un.h", "#define UN 2\nint un;\n")
			return ""
		}, false},
		"a header appears in a later folder": {func(w *work) string {
			w.write("include/uapi/linux/a.h", "#define A 7\n")
			return ""
		}, true},
		"a precompiled header appears": {func(w *work) string {
			w.write("include/linux/kconfig.h.gch", "not one\n")
			return ""
		}, false},
		"another flag": {func(w *work) string { return strings.Replace(line, "-O2", "-O1", 1) }, false},
		"another macro": {func(w *work) string { return strings.Replace(line, "-DK", "-DNEW -DK", 1) },
			false},
		"another compiler's name": {func(w *work) string { return strings.Replace(line, "gcc ", "cc ", 1) }, false},
		"another working folder": {func(w *work) string {
			w.dir = copyOf(w.t, w.dir)
			return ""
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWork(t)
			if w.build(line) {
				t.Fatal("an empty cache had an object")
			}
			if !w.build(line) {
				t.Fatal("the second build did not use the first one's object")
			}
			script := c.change(w)
			if script == "" {
				script = line
			}
			if got := w.build(script); got != c.hit {
				t.Errorf("from the cache: %v, want %v", got, c.hit)
			}
			if script != line {
				return
			}
			if !w.build(script) && name != "a precompiled header appears" {
				t.Errorf("what was compiled then was not kept")
			}
		})
	}
}

// TestAReportHasTheSizeOfAnObject compares it with what size(1) says: the sum of text, data and bss.
func TestAReportHasTheSizeOfAnObject(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Tool("size"))
	w := newWork(t)
	w.write("main.c", "int code(void) { return 1; }\nint data[100] = {1};\nint zeroes[1000];\n"+
		"__attribute__((section(\".discard.x\"))) int dropped[7];\n")
	w.settle()
	for _, cached := range []bool{false, true} {
		r := w.run(line, true)
		if len(r.objects) != 1 || r.objects[0].Cached != cached {
			t.Fatalf("%+v", r.objects)
		}
		said, err := exec.Command("size", filepath.Join(w.dir, "main.o")).Output()
		if err != nil {
			t.Fatal(err)
		}
		_, row, _ := strings.Cut(string(said), "\n")
		want, err := strconv.ParseInt(strings.Fields(row)[3], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.objects[0].Bytes; got != want-28 || got < 4400 {
			t.Errorf("%d bytes, and size says %d, 28 of which are dropped", got, want)
		}
	}
	if n := sizeOf([]byte("no object")); n != 0 {
		t.Errorf("what is no object has %d bytes", n)
	}
}

func copyOf(t *testing.T, dir string) string {
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestAQuotedHeaderThatAppearsBesideItsIncluderIsSeen(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	w.write("include/deep/e.h", "#define E 5\n")
	w.write("main.c", "#include \"deep/e.h\"\nint e = E;\n")
	w.build(line)
	if !w.build(line) {
		t.Fatal("the second build did not use the first one's object")
	}
	w.write("deep/e.h", "#define E 6\n")
	if w.build(line) {
		t.Error("the header beside the source was not seen")
	}
}

func TestWhatTheAssemblerIncludesIsSeen(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	w.write("include/asm/insn.h", ".set two, 2\n")
	w.write("main.c", "asm(\".include \\\"asm/insn.h\\\"\\n.data\\n.long two\\n\");\n")
	w.build(line)
	if !w.build(line) {
		t.Fatal("the second build did not use the first one's object")
	}
	w.write("include/asm/insn.h", ".set two, 3\n")
	if w.build(line) {
		t.Error("a change of the file was not seen")
	}
	w.write("arch/include/asm/insn.h", ".set two, 4\n")
	if w.build(line) {
		t.Error("a file in an earlier folder was not seen")
	}
}

func TestWhatNoDependencyFileListsIsNotKept(t *testing.T) {
	for name, text := range map[string]string{
		"the clock":                   "const char *t = __TIME__;\n",
		"a file put in":               "asm(\".incbin \\\"data\\\"\");\n",
		"a question for files":        "#if __has_include(<x>)\n#endif\nint i;\n",
		"a name that is put together": "#define V(x) CONFIG_##x\nint v = V(USED);\n",
		"a system header":             "#pragma GCC system_header\nint i;\n",
		"a header's time":             "#pragma GCC dependency \"main.c\"\nint i;\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWork(t)
			w.write("data", "data")
			w.write("main.c", text)
			for range 2 {
				w.settle()
				// Two compilers may see two times, so nothing is compared here.
				if r := w.run(line, true); r.code != 0 || len(r.objects) != 1 || r.objects[0].Cached {
					t.Errorf("code %d, objects %v, said %s", r.code, r.objects, r.said)
				}
			}
		})
	}
}

func TestWhatFailsIsNotKept(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	w.write("main.c", "#error no\n")
	for range 2 {
		if w.build(line) {
			t.Error("a file that does not compile came from the cache")
		}
	}
	w.each(func(p string) { t.Errorf("%s was kept", p) })
}

func TestADamagedCacheIsAMiss(t *testing.T) {
	overwrite := func(p string, data []byte) error {
		if err := os.Remove(p); err != nil {
			return err
		}
		return os.WriteFile(p, data, 0o644)
	}
	for name, damage := range map[string]func(p string) error{
		"bytes changed": func(p string) error {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return overwrite(p, data)
		},
		"cut off": func(p string) error {
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return overwrite(p, data[:len(data)/2])
		},
		"empty":    func(p string) error { return overwrite(p, nil) },
		"gone":     os.Remove,
		"a folder": func(p string) error { return cmpErr(os.Remove(p), os.Mkdir(p, 0o755)) },
		"a link to another file": func(p string) error {
			return cmpErr(os.Remove(p), os.Symlink("/etc/passwd", p))
		},
		"a FIFO": func(p string) error { return cmpErr(os.Remove(p), exec.Command("mkfifo", p).Run()) },
	} {
		for _, part := range []string{"keys", "blobs", ""} {
			t.Run(name+" "+part, func(t *testing.T) {
				t.Parallel()
				w := newWork(t)
				w.build(line)
				n := 0
				w.each(func(p string) {
					if strings.Contains(p, "/"+part) {
						n++
						if err := damage(p); err != nil {
							t.Fatal(err)
						}
					}
				})
				if n == 0 {
					t.Fatal("nothing to damage")
				}
				if w.build(line) {
					t.Error("a damaged object was used")
				}
				// A folder in an entry's place stays, and so does what cannot be replaced.
				if name != "a folder" && !w.build(line) {
					t.Error("what was made anew was not kept")
				}
			})
		}
	}
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestAnEntryOfAnotherKeyOrObjectIsAMiss(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	w.build(line)
	other := strings.ReplaceAll(line, "-O2", "-O1")
	w.build(other)
	var dirs []string
	w.each(func(p string) {
		if strings.Contains(p, "/keys/") {
			dirs = append(dirs, p)
		}
	})
	if len(dirs) != 2 {
		t.Fatalf("%d entries", len(dirs))
	}
	// Each entry goes to the other's place.
	a, b := dirs[0], dirs[1]
	if err := cmpErr(os.Rename(a, filepath.Join(filepath.Dir(b), filepath.Base(a))),
		os.Rename(b, filepath.Join(filepath.Dir(a), filepath.Base(b)))); err != nil {
		t.Fatal(err)
	}
	if w.build(line) || w.build(other) {
		t.Error("another command's entry was used")
	}
}

func TestALevelThatIsOnlyReadIsUsedAndNotWrittenTo(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	base := w.levels[0]
	w.build(line)
	w.levels = []string{t.TempDir(), base}
	if !w.build(line) {
		t.Error("the lower level's object was not used")
	}
	w.levels = []string{w.levels[0]}
	w.each(func(p string) { t.Errorf("%s was written", p) })
	w.levels = append(w.levels, base)
	w.write("main.c", "int changed;\n")
	before := names(t, base)
	w.build(line)
	if !slices.Equal(before, names(t, base)) {
		t.Error("the lower level changed")
	}
	// Another tree, which reads the lower level alone, does not see what was kept above it.
	w.levels = []string{t.TempDir(), base}
	if w.build(line) {
		t.Error("an object of another tree was used")
	}
}

func names(t *testing.T, dir string) (all []string) {
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		all = append(all, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestWithoutAPlaceForObjectsEverythingIsCompiled(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, levels := range [][]string{{"/nonexistent/folder"}, {file}, {"/proc"}, {}} {
		w.levels = levels
		if w.build(line) {
			t.Errorf("%v had an object", levels)
		}
	}
}

func TestManyBuildsShareALevel(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	w.settle()
	script := line + " & " + strings.ReplaceAll(strings.ReplaceAll(line, "main.o", "second.o"), "-O2", "-O1") + "; wait"
	want := w.run(script, false)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			v := &work{t: t, dir: w.dir, levels: w.levels}
			v.dir = copyOf(t, w.dir)
			v.settle()
			for range 3 {
				got := v.run(script, true)
				for name, data := range want.files {
					if got.files[name] != data && name != ".main.o.d" {
						t.Errorf("%s has other bytes", name)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestAServerThatIsGoneCompilesAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	if w.build("unset "+socketVariable+"; "+line) || w.build(socketVariable+"=/nonexistent "+line) {
		t.Error("an object came from nowhere")
	}
}

func TestWhatIsNoCompilationGoesToTheCompiler(t *testing.T) {
	t.Parallel()
	w := newWork(t)
	for _, script := range []string{
		"gcc --version", "gcc -E -o main.o -I./include main.c", "gcc -nostdinc -I./include -S -o main.o main.c",
		"echo 'int x;' | gcc -x c -c -o main.o -", "gcc -c -o main.o nothing.c", "gcc -print-file-name=plugin",
		"gcc -Werror -Wno-such -c -x c /dev/null -o main.o", "gcc",
		"gcc -Wp,-MMD,.main.o.d -I./include -c -o main.o main.c",
	} {
		if w.build(script + " >main.o.out") {
			t.Errorf("%s was answered by the cache", script)
		}
	}
}

func TestTheMostRecentlyUsedObjectsStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	put := func(name string, age time.Duration) {
		p := filepath.Join(dir, name)
		data := make([]byte, 1000)
		rand.Read(data)
		if err := cmpErr(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o444),
			os.Chtimes(p, now.Add(-age), now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	put("old/keys/aa/aa/1", time.Hour)
	put("new/keys/aa/aa/1", 3*time.Hour)
	put("new/keys/aa/aa/2", 2*time.Hour)
	put("new/keys/aa/aa/"+tempPrefix+"1", 48*time.Hour)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := cmpErr(os.WriteFile(outside, nil, 0o644), os.Symlink(filepath.Dir(outside),
		filepath.Join(dir, "new/link")),
		os.Chtimes(filepath.Join(dir, "old"), now.Add(-24*time.Hour), now.Add(-24*time.Hour)),
		os.Chtimes(filepath.Join(dir, "new"), now, now)); err != nil {
		t.Fatal(err)
	}
	left := func() string {
		var all []string
		for _, p := range []string{"old", "new/keys/aa/aa/1", "new/keys/aa/aa/2"} {
			if _, err := os.Stat(filepath.Join(dir, p)); err == nil {
				all = append(all, p)
			}
		}
		return strings.Join(all, " ")
	}
	for _, step := range []struct {
		limit int64
		left  string
	}{
		{1 << 20, "old new/keys/aa/aa/1 new/keys/aa/aa/2"},
		{2900, "new/keys/aa/aa/1 new/keys/aa/aa/2"},
		{1999, "new/keys/aa/aa/2"},
		{0, ""},
	} {
		if _, err := Trim(dir, step.limit, now); err != nil {
			t.Fatal(err)
		}
		if got := left(); got != step.left {
			t.Errorf("limit %d: left %q, want %q", step.limit, got, step.left)
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	if files, size, err := Usage(dir); err != nil || files != 0 || size != 0 {
		t.Errorf("left: %d files, %d bytes, %v", files, size, err)
	}
	if _, err := Trim(filepath.Join(dir, "nothing"), 0, now); err != nil {
		t.Error(err)
	}
}

func FuzzEntry(f *testing.F) {
	e := entry{key: sum{1}, object: sum{2}, size: 3, cpu: 4, message: []byte("a warning\n"),
		depfile: []byte("a.o: a.c \\\n b.h\n"), sums: []sum{{5}, {6}}, config: sum{7}, present: []string{"x", "y"}}
	f.Add(e.encode())
	f.Add([]byte(version))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			return
		}
		if !bytes.Equal(e.encode(), data) {
			t.Error("another encoding of the same entry was taken")
		}
		deps, ok := parseDepfile(e.depfile)
		if ok && len(deps) == 0 {
			t.Error("an object of nothing")
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add(question{dir: "/d", compiler: "gcc", env: []string{"LC_ALL=C"}, args: strings.Fields(line)[1:]}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		q, err := decodeQuestion(data)
		if err != nil {
			return
		}
		c, ok := newCall(q.compiler, q.dir, q.env, q.args)
		if ok && (c.object == "" || c.depfile == "" || c.source == "") {
			t.Errorf("%q is a call without files", q.args)
		}
	})
}

func FuzzScan(f *testing.F) {
	for _, text := range smallTree() {
		f.Add([]byte(text))
	}
	f.Add([]byte("asm(\".include \\\"x\\\"\");\n#pragma GCC dependency \"x\"\n#define X CONFIG_ ## y"))
	f.Fuzz(func(t *testing.T, data []byte) {
		x := scan(data)
		if !slices.IsSorted(x.options) {
			t.Error("options are not sorted")
		}
		if values, ok := parseAutoconf(data); ok {
			configOf(values, []*text{x}, nil)
		}
		ReadReport(bytes.NewReader(data))
	})
}
