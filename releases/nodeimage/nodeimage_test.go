package nodeimage

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/v1"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/unpack"
)

// programs makes a folder of programs for architectures.
func programs(t *testing.T, arches []string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, a := range arches {
		for _, n := range names {
			data, err := releasetest.Program(a, n+strings.Repeat(" of "+a, 1000))
			p := filepath.Join(dir, a, n)
			if err := errors.Join(err, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// images are those of a layout by architecture, as go-containerregistry reads it.
func images(t *testing.T, dir string) map[string]ggcr.Image {
	t.Helper()
	top, err := ocilayout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if d, _, err := digest.File(b); err != nil || d.Hex() != filepath.Base(b) {
			t.Errorf("%s has %s: %v", b, d, err)
		}
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) != 1 ||
		m.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "1.0.0" {
		t.Fatalf("%+v %v", m, err)
	}
	all, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = all.IndexManifest(); err != nil {
		t.Fatal(err)
	}
	out := map[string]ggcr.Image{}
	for _, d := range m.Manifests {
		i, err := all.Image(d.Digest)
		if err != nil || d.Platform.OS != "linux" {
			t.Fatal(d, err)
		}
		out[d.Platform.Architecture] = i
	}
	return out
}

// extract writes the files of an image below a folder, and lists their names.
func extract(t *testing.T, i ggcr.Image, dir string) (names []string) {
	t.Helper()
	layers, err := i.Layers()
	if err != nil {
		t.Fatal(err)
	}
	c, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for k, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || string(digest.Of(data)) != c.RootFS.DiffIDs[k].String() {
			t.Fatalf("layer %d is not what the configuration says: %v", k, err)
		}
		for in := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			if h.Uid != 0 || h.Gid != 0 || h.Uname != "" {
				t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
			}
			p := filepath.Join(dir, h.Name)
			if h.Typeflag == tar.TypeDir {
				err = os.MkdirAll(p, 0o755)
			} else {
				var data []byte
				data, err = io.ReadAll(in)
				err = errors.Join(err, os.WriteFile(p, data, os.FileMode(h.Mode)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return names
}

// same compares two folders, byte for byte.
func same(t *testing.T, a, b string) {
	t.Helper()
	read := func(dir string) map[string]string {
		out := map[string]string{}
		if err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			out[strings.TrimPrefix(p, dir)] = string(data)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	one, two := read(a), read(b)
	if len(one) != len(two) || len(one) == 0 {
		t.Errorf("%d files and %d", len(one), len(two))
	}
	for n, data := range one {
		if two[n] != data {
			t.Errorf("%s is otherwise", n)
		}
	}
}

func TestAnImageHasOneFileForEachArchitecture(t *testing.T) {
	all := arch.Names(arch.All())
	cfg := Config{Programs: programs(t, all, Program, "kata-runtime"), Version: "1.0.0",
		Out: filepath.Join(t.TempDir(), "deep", "image")}
	r, err := Write(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := images(t, cfg.Out)
	if len(got) != len(all) || len(r.Images) != len(all) {
		t.Errorf("%d images", len(got))
	}
	for _, a := range arch.All() {
		i := got[a.Go]
		c, err := i.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(c.Config.Entrypoint, []string{"/kata-deploy"}) || c.OS != "linux" || c.Created.Unix() != 0 ||
			c.Config.Labels["org.opencontainers.image.version"] != "1.0.0" || c.Config.Cmd != nil {
			t.Errorf("%s: %+v", a.Name, c.Config)
		}
		dir := t.TempDir()
		if names := extract(t, i, dir); !slices.Equal(names, []string{"kata-deploy"}) {
			t.Errorf("%s has %q", a.Name, names)
		}
		one, err1 := os.ReadFile(filepath.Join(dir, Program))
		two, err2 := os.ReadFile(filepath.Join(cfg.Programs, a.Name, Program))
		fi, err3 := os.Stat(filepath.Join(dir, Program))
		if err := errors.Join(err1, err2, err3); err != nil || !bytes.Equal(one, two) || fi.Mode().Perm()&0o111 == 0 {
			t.Errorf("%s: another program: %v", a.Name, err)
		}
	}
	// Once more, elsewhere, and in the place of what is there.
	again := cfg
	again.Out = filepath.Join(t.TempDir(), "image")
	for range 2 {
		if _, err := Write(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		same(t, cfg.Out, again.Out)
	}
}

func TestAReleaseInAnImageIsTheArchitecturesOwn(t *testing.T) {
	names := []string{"containerd-shim-kata-v2", "kata-runtime", Program}
	arches := []string{"aarch64", "x86_64"}
	rel := assemble.Config{Version: "1.0.0", Channel: "stable", Origin: releasetest.Origin, Claims: releasetest.Claims,
		Programs: programs(t, arches, names...)}
	for _, g := range []releasetest.Guest{{Arch: "x86_64"}, {Arch: "aarch64", Disk: true}} {
		d := t.TempDir()
		if err := g.Write(d); err != nil {
			t.Fatal(err)
		}
		rel.Guests = append(rel.Guests, assemble.Guest{Dir: d})
	}
	to, err := folder.Create(t.Context(), filepath.Join(t.TempDir(), "release"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := assemble.Release(t.Context(), rel, to); err != nil {
		t.Fatal(err)
	}
	head, err := to.Index(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Decode(head.Index)
	if err != nil {
		t.Fatal(err)
	}
	head.Envelope = []byte("signatures")
	cfg := Config{Programs: rel.Programs, Version: "1.0.0", Out: filepath.Join(t.TempDir(), "image"),
		Release: &Source{Head: head, Index: x, Files: to}}
	if _, err := Write(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, a := range arch.All() {
		if !slices.Contains(arches, a.Name) {
			continue
		}
		i, dir := images(t, cfg.Out)[a.Go], t.TempDir()
		c, err := i.ConfigFile()
		if err != nil || c.Created.Unix() != x.Time {
			t.Errorf("made at %v, want %d: %v", c.Created, x.Time, err)
		}
		names := extract(t, i, dir)
		part, err := unpack.ForNode(x, a.Name)
		if err != nil {
			t.Fatal(err)
		}
		if want := 1 + 3 + len(part.Blobs()) + 2; len(names) != want {
			t.Errorf("%s has %d files, want %d: %q", a.Name, len(names), want, names)
		}
		f, err := folder.Open(filepath.Join(dir, Release))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h, err := f.Index(t.Context())
		if err != nil || !bytes.Equal(h.Index, head.Index) || string(h.Envelope) != "signatures" {
			t.Errorf("another index: %v", err)
		}
		if err := judge.Contents(t.Context(), part, f, releasetest.Claims); err != nil {
			t.Error(err)
		}
	}
	cfg.Arches, cfg.Programs = nil, programs(t, []string{"s390x"}, Program)
	if _, err := Write(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "want a guest for s390x") {
		t.Errorf("got %v", err)
	}
}

func TestWhatCannotBeAnImageIsRefused(t *testing.T) {
	good := programs(t, []string{"x86_64"}, Program)
	dynamic := programs(t, []string{"x86_64"}, Program)
	data, err := releasetest.Program("x86_64", "")
	if err != nil {
		t.Fatal(err)
	}
	// One program header, which asks for a loader.
	data[32], data[54], data[56] = 64, 56, 1
	data = append(data, byte(elf.PT_INTERP))
	data = append(data, make([]byte, 55)...)
	if err := os.WriteFile(filepath.Join(dynamic, "x86_64", Program), data, 0o755); err != nil {
		t.Fatal(err)
	}
	other := programs(t, []string{"aarch64"}, Program)
	if err := os.Rename(filepath.Join(other, "aarch64"), filepath.Join(other, "x86_64")); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no programs":                {Config{Programs: t.TempDir()}, "no program in"},
		"no program for that":        {Config{Programs: good, Arches: []string{"s390x"}}, "make dist"},
		"an architecture that is no": {Config{Programs: good, Arches: []string{"vax"}}, "no program in"},
		"a dynamic program":          {Config{Programs: dynamic}, "is not static"},
		"for another machine":        {Config{Programs: other}, "want one for x86_64"},
		"a folder of mine":           {Config{Programs: good, Out: full}, "is there, and no image layout"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.cfg.Out == "" {
				c.cfg.Out = filepath.Join(t.TempDir(), "image")
			}
			if _, err := Write(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if names, err := os.ReadDir(filepath.Dir(c.cfg.Out)); err == nil && c.cfg.Out != full && len(names) > 0 {
				t.Errorf("left: %v", names)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(full, "mine")); err != nil {
		t.Error(err)
	}
}
