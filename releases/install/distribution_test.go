package install

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/install/distribution"
)

// options are those for the distribution that a host has.
func options(t testing.TB, root, name string) (Options, error) {
	t.Helper()
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := distribution.Find(r.FS(), name)
	return Defaults().On(f), err
}

// outside is everything below a root that lies outside of the prefix, with its text.
func outside(t testing.TB, root string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(p, root)
		if err != nil || d.IsDir() {
			if name == DefaultPrefix {
				return fs.SkipDir
			}
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			out = append(out, fmt.Sprintf("%s -> %s\n", name, to))
			return err
		}
		data, err := os.ReadFile(p)
		out = append(out, fmt.Sprintf("%s:\n%s", name, strings.ReplaceAll("    "+string(data), "\n", "\n    "))+"\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(out)
	return strings.Join(out, "")
}

// Each file of testdata/distributions is a host, as its distribution leaves it; the golden file beside it is what lies
// outside of the prefix when the runtime is there.
func TestEachDistributionIsToldWhereItReads(t *testing.T) {
	eachDistribution(t, "distributions", 12, "*", func(*Options) {})
}

// Those with a containerd 2 are also told who makes pods, and the others are as before. The golden files are in
// testdata/sandboxer, with the drop-in that lies below the prefix.
func TestContainerd2IsToldOfTheSandboxService(t *testing.T) {
	eachDistribution(t, "sandboxer", 4, "k*-containerd-[12]*", func(o *Options) { o.Sandboxer = sandboxerShim })
}

// eachDistribution installs on the hosts whose names match a pattern, of which there are least at least, with options
// as changed, and compares with golden files.
func eachDistribution(t *testing.T, goldens string, least int, pattern string, change func(*Options)) {
	files, err := filepath.Glob("testdata/distributions/" + pattern + ".txtar")
	if err != nil || len(files) < least {
		t.Fatal(files, err)
	}
	src := Source{Version: "1", Programs: programs(t), Guests: []string{guest(t, "default")}}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			host := map[string]string{}
			for _, f := range ar.Files {
				host[f.Name] = string(f.Data)
			}
			root := t.TempDir()
			for n, text := range host {
				p := filepath.Join(root, n)
				if to, ok := strings.CutPrefix(n, "link "); ok {
					p, text, _ = strings.Cut(to, " -> ")
					if err := os.MkdirAll(filepath.Dir(filepath.Join(root, p)), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.Symlink(text, filepath.Join(root, p)); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			before := snapshot(t, root)
			o, err := options(t, root, distribution.Auto)
			if err != nil {
				golden.Check(t, goldens+"/"+name+".golden", []byte("refused: "+err.Error()+"\n"))
				return
			}
			change(&o)
			put(t, root, DefaultPrefix, src, o)
			tree := fmt.Sprintf("%s %v\n", o.Layout.Name, o.Units()) + outside(t, root)
			if o.Sandboxer != "" {
				b, err := os.ReadFile(filepath.Join(root, DefaultPrefix, "current/containerd.toml"))
				if err != nil {
					t.Fatal(err)
				}
				tree += "\ndrop-in:\n" + string(b)
			}
			golden.Check(t, goldens+"/"+name+".golden", []byte(tree))
			if ch := put(t, root, DefaultPrefix, src, o); !ch.Nothing() {
				t.Errorf("the second time it wants to %q", ch.Steps)
			}
			// Another name, and another release, which says nothing new to the daemon.
			o.Handler = "vm"
			if ch := put(t, root, DefaultPrefix, src, o); !ch.Restart {
				t.Errorf("the daemon does not hear of another handler: %q", ch.Steps)
			}
			next := src
			next.Version, next.Guests = "2", []string{guest(t, "default")}
			if ch := put(t, root, DefaultPrefix, next, o); ch.Restart {
				t.Errorf("the daemon starts anew for another release: %q", ch.Steps)
			}
			uninstall(t, root, DefaultPrefix)
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}
