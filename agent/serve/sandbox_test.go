package serve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestATerminationLogIsTheHeadOfARegularFile(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"empty": "", "short": "bye", "long": strings.Repeat("x",
		2*maxTermination)} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("not the container's"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	in := &specs.Spec{Root: &specs.Root{Path: root}}
	bound := func(name string) *specs.Spec {
		return &specs.Spec{Root: in.Root, Mounts: []specs.Mount{{Destination: "/log", Source: filepath.Join(root,
			name)}}}
	}
	for name, c := range map[string]struct {
		spec *specs.Spec
		path string
		want string
		bad  bool
	}{
		"an empty one is no error":      {spec: in, path: "/empty"},
		"all of a short one":            {spec: in, path: "/short", want: "bye"},
		"the head of a long one":        {spec: in, path: "/long", want: strings.Repeat("x", maxTermination)},
		"a pipe holds nobody up":        {spec: in, path: "/pipe", bad: true},
		"a folder is none":              {spec: in, path: "/", bad: true},
		"a link leads nowhere else":     {spec: in, path: "/link", bad: true},
		"one that is not there":         {spec: in, path: "/none", bad: true},
		"a bound one":                   {spec: bound("short"), path: "/log", want: "bye"},
		"a bound empty one is no error": {spec: bound("empty"), path: "/log"},
		"a bound pipe holds nobody up":  {spec: bound("pipe"), path: "/log", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := openTermination(c.spec, c.path)
			got := ""
			if err == nil {
				defer file.Close()
				got, err = lastWords(file)
			}
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("%d bytes, %v; want %d bytes, an error: %v", len(got), err, len(c.want), c.bad)
			}
		})
	}
}
