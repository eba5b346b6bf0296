// Package katabuild_test holds the rules of the repository, each with its reason.
package katabuild_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/katabuild/katabuild/"

// imports says what a component may import. A component not listed may not exist.
var imports = []struct {
	component string
	may       []string
	reason    string
}{
	{"internal", nil, "documents and small tools know no component, so that every component can use them"},
	{"kernel", []string{"internal"}, "a component that makes things knows neither the others nor its caller, so that " +
		"it can be tested and replaced alone"},
	{"initrd", []string{"internal"}, "a component that makes things knows neither the others nor its caller"},
	{"rootfs", []string{"internal"}, "a component that makes things knows neither the others nor its caller"},
	{"builder", []string{"internal", "kernel", "initrd", "rootfs"},
		"the builder alone has them make something"},
	{"inspect", []string{"internal", "initrd", "rootfs"}, "it reads what their formats hold, for " +
		"people, whoever wrote it, and makes nothing"},
	{"runtime", []string{"internal"}, "the host side meets a guest through its manifest, whoever built it"},
	{"agent", []string{"internal"}, "the agent is small and must build for every guest without the builder"},
	{"releases", []string{"internal"}, "a release is documents about artefacts, whoever made them"},
	{"cmd", []string{"internal", "builder", "inspect", "runtime", "agent", "releases"},
		"commands call components; what makes things is called by the builder alone"},
	{"ci", []string{"internal", "builder", "inspect", "runtime", "agent", "releases", "kernel", "initrd", "rootfs"},
		"tests of the whole repository may look anywhere"},
}

// inner says what packages that are a part of another one may import from their own component, and which package they
// are a part of: nobody else of the component imports them.
var inner = []struct {
	pkg, of string
	may     []string
	reason  string
	besides string // another package that may import it, or empty
}{
	{"agent/storage/place", "agent/storage", nil,
		"a path from outside is made safe by one small package that anybody can read whole", ""},
	{"agent/storage/mount", "agent/storage", []string{"agent/storage/place"},
		"it mounts where it is told, and knows neither the guest API nor what a mount is for", ""},
	{"agent/storage/incoming", "agent/storage", []string{"agent/storage/place"},
		"it takes files to a place, and knows no mounts and no disks", ""},
	{"agent/storage/mirror", "agent/storage", []string{"agent/storage/place"},
		"it copies from folder to folder, and knows no mounts and no disks", ""},
	{"agent/container/blueprint", "agent/container", []string{"agent/container/seccomp", "agent/container/stage"},
		"it decides how a container is made and does nothing, in guests and on hosts", "agent/oci"},
	{"agent/container/launch", "agent/container", []string{"agent/container/blueprint", "agent/container/cgroup",
		"agent/container/child", "agent/container/stage", "agent/osthread", "agent/reap"},
		"it starts stages, in guests and on hosts, and knows neither containers nor their streams", "agent/oci"},
	{"agent/oci/hostgroup", "agent/oci", []string{"agent/container/cgroup"},
		"it keeps control groups, and knows neither containers nor their processes", ""},
	{"agent/container/locks", "agent/container", nil, "it answers about locks, and knows nothing of containers", ""},
	{"agent/storage/disk", "agent/storage", []string{"agent/devmapper", "agent/uevent", "agent/uevent/pcipath"},
		"it finds disks, and knows neither the guest API nor where they are mounted", ""},
}

type source struct {
	dir  string // slash-separated, from the root
	name string
	file *ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	err := filepath.WalkDir(".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n := e.Name()
		if e.IsDir() {
			if p != "." && (strings.HasPrefix(n, ".") || strings.HasPrefix(n, "_") || n == "testdata" || n == "out" ||
				n == "bin") {
				return filepath.SkipDir
			}
			// A module of its own keeps its own rules.
			if _, err := os.Stat(filepath.Join(p, "go.mod")); p != "." && err == nil {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(n) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		out = append(out, source{filepath.ToSlash(filepath.Dir(p)), n, f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func component(dir string) string {
	r, _, _ := strings.Cut(dir, "/")
	return r
}

func TestEveryImportIsAllowed(t *testing.T) {
	for _, s := range sources(t) {
		from := component(s.dir)
		if from == "." {
			continue
		}
		i := slices.IndexFunc(imports, func(d struct {
			component string
			may       []string
			reason    string
		}) bool {
			return d.component == from
		})
		if i < 0 {
			t.Errorf("%s/%s: the repository has no component %q (CONTRIBUTING.md: the top-level names are fixed)",
				s.dir, s.name,
				from)
			continue
		}
		for _, im := range s.file.Imports {
			p, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			rest, ours := strings.CutPrefix(p, module)
			if !ours {
				continue
			}
			to := component(rest)
			if to != from && !slices.Contains(imports[i].may, to) {
				t.Errorf("%s/%s imports %s: %s may not import %s, because %s", s.dir, s.name, rest, from, to,
					imports[i].reason)
			}
			if to == from && from == "cmd" && !strings.HasPrefix(rest, s.dir+"/") {
				t.Errorf("%s/%s imports %s: nobody imports a command", s.dir, s.name, rest)
			}
		}
	}
}

func TestAPartOfAPackageKnowsOnlyWhatItNeeds(t *testing.T) {
	all := sources(t)
	for _, part := range inner {
		if !slices.ContainsFunc(all, func(s source) bool { return s.dir == part.pkg }) {
			t.Errorf("there is no package %s", part.pkg)
		}
		for _, s := range all {
			for _, im := range s.file.Imports {
				p, err := strconv.Unquote(im.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				rest, ours := strings.CutPrefix(p, module)
				switch {
				case !ours:
				case strings.HasSuffix(s.name, "_test.go") && strings.HasSuffix(rest, "test"): // what tests share
				case s.dir == part.pkg && component(rest) == component(part.pkg) && !slices.Contains(part.may, rest):
					t.Errorf("%s/%s imports %s: this part of %s may not, because %s", s.dir, s.name, rest, part.of,
						part.reason)
				case rest == part.pkg && s.dir != part.of && s.dir != part.besides && !isPartOf(s.dir, part.of):
					t.Errorf("%s/%s imports %s, which is a part of %s", s.dir, s.name, rest, part.of)
				}
			}
		}
	}
}

// isPartOf says whether a package is listed as a part of another one.
func isPartOf(pkg, of string) bool {
	for _, part := range inner {
		if part.pkg == pkg && part.of == of {
			return true
		}
	}
	return false
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	for _, s := range sources(t) {
		if strings.HasSuffix(s.name, "_test.go") {
			continue
		}
		said[s.dir] = said[s.dir] || s.file.Doc.Text() != ""
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("package %s has no comment: the first thing a reader needs is its one job", dir)
		}
	}
}

func TestNobodyRegistersItselfInInit(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasSuffix(s.name, ".pb.go") {
			continue // generated by protoc-gen-go
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s/%s has an init function: what runs before main cannot be seen or tested; keep a "+
					"visible list", s.dir, s.name)
			}
		}
	}
}

func TestOnlyCommandsReadTheEnvironmentAndExit(t *testing.T) {
	// internal/testenv and internal/golden each read one variable; internal/jail is a re-executed stage; the agent is
	// PID 1; kernel/kerneltest and internal/boottest run Go in tests.
	allowed := []string{"cmd", "internal/testenv", "internal/golden", "internal/jail", "internal/boottest",
		"kernel/kerneltest", "ci"}
	for _, s := range sources(t) {
		if strings.HasSuffix(s.name, "_test.go") || slices.ContainsFunc(allowed,
			func(a string) bool { return s.dir == a || strings.HasPrefix(s.dir, a+"/") }) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "os" &&
				slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "Exit"}, sel.Sel.Name) {
				t.Errorf("%s/%s calls os.%s: only commands read the environment or exit, so that packages depend on "+
					"their arguments alone", s.dir, s.name, sel.Sel.Name)
			}
			return true
		})
	}
}

func TestOnlyCommandsSayWhatToType(t *testing.T) {
	typed := regexp.MustCompile(
		`katabuild (lock|fetch|build|store|doctor) |--(offline|store|archive|agent|registry-[a-z]+)\b`)
	for _, s := range sources(t) {
		if strings.HasSuffix(s.name, "_test.go") || !slices.Contains([]string{"builder", "kernel", "rootfs", "initrd",
			"inspect", "internal"}, strings.Split(s.dir, "/")[0]) {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && typed.MatchString(l.Value) {
				t.Errorf("%s/%s says %s: return an error of a type of its own, and say what to type in cmd/katabuild/"+
					"hints.go", s.dir, s.name, l.Value)
			}
			return true
		})
	}
}

func TestEveryComponentIsThere(t *testing.T) {
	for _, r := range []string{"builder", "inspect", "recipes", "kernel", "rootfs", "initrd", "runtime", "agent",
		"releases", "ci", "docs", "cmd", "internal"} {
		if fi, err := os.Stat(r); err != nil || !fi.IsDir() {
			t.Errorf("no folder %s: the top-level folders are fixed", r)
		}
	}
}
