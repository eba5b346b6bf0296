package recipetar_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/recipetar"
)

var recipe = []byte("version: 1\nname: sample\n")

// beside makes a folder with a recipe's folder and what lies around it.
func beside(t testing.TB, perm os.FileMode) (dir string, parts []recipetar.Part) {
	t.Helper()
	top := t.TempDir()
	dir = filepath.Join(top, "a", "sample")
	files := map[string]string{"a/sample/motd": "hello\n", "a/etc/hosts": "127.0.0.1\n", "a/etc/.git/config": "secret",
		"a/etc/run": "#!/bin/sh\n", "patches/one.patch": "--- a\n"}
	for name, text := range files {
		p := filepath.Join(top, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), perm)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(top, "a/etc/run"), 0o755),
		os.Symlink("hosts", filepath.Join(top, "a/etc/link"))); err != nil {
		t.Fatal(err)
	}
	return dir, []recipetar.Part{{Where: "motd"}, {Where: "../etc", Folder: true}, {Where: "../../patches/one.patch"}}
}

func pack(t testing.TB, perm os.FileMode) (data []byte, dir string, parts []recipetar.Part) {
	t.Helper()
	dir, parts = beside(t, perm)
	data, err := recipetar.Pack(t.Context(), recipe, dir, parts)
	if err != nil {
		t.Fatal(err)
	}
	return data, dir, parts
}

func TestARecipeComesBackWithWhatLiesBesideIt(t *testing.T) {
	data, dir, parts := pack(t, 0o600)
	if again, _, _ := pack(t, 0o644); !bytes.Equal(data, again) {
		t.Error("modes of files change the bytes")
	}
	golden.Check(t, "recipe.tar.digest", []byte(string(digest.Of(data))+"\n"))
	to := t.TempDir()
	at, err := recipetar.Unpack(data, to)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(at); err != nil || !bytes.Equal(got, recipe) {
		t.Errorf("%q, %v", got, err)
	}
	for _, p := range parts {
		from, back := filepath.Join(dir, p.Where), filepath.Join(filepath.Dir(at), p.Where)
		if p.Folder {
			want, err1 := checkout.Digest(t.Context(), from)
			got, err2 := checkout.Digest(t.Context(), back)
			if err := errors.Join(err1, err2); err != nil || got != want {
				t.Errorf("%s: %s, %v", p.Where, got, err)
			}
			continue
		}
		want, _, err1 := digest.File(from)
		got, _, err2 := digest.File(back)
		if err := errors.Join(err1, err2); err != nil || got != want {
			t.Errorf("%s: %s, %v", p.Where, got, err)
		}
	}
	if d, err := recipetar.Recipe(data); err != nil || d != digest.Of(recipe) {
		t.Errorf("%s, %v", d, err)
	}
	list := exec.Command("tar", "-t")
	list.Stdin = bytes.NewReader(data)
	out, err := list.Output()
	want := "above/\nabove/above/\nabove/above/etc/\nabove/above/etc/hosts\nabove/above/etc/link\n" +
		"above/above/etc/run\nabove/above/recipe/\nabove/above/recipe/motd\nabove/above/recipe/recipe.yaml\n" +
		"above/patches/\nabove/patches/one.patch\n"
	if string(out) != want || err != nil {
		t.Errorf("tar lists\n%s, want\n%s: %v", out, want, err)
	}
}

func TestWhatCannotBePackedSaysWhy(t *testing.T) {
	dir, _ := beside(t, 0o644)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, recipetar.MaxSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := recipetar.Pack(t.Context(), recipe, dir, []recipetar.Part{{Where: "big"}}); !errors.Is(err,
		recipetar.ErrTooBig) {
		t.Errorf("too big: %v", err)
	}
	far := []recipetar.Part{{Where: strings.Repeat("../", 9) + "x"}}
	if _, err := recipetar.Pack(t.Context(), recipe, dir, far); err == nil ||
		!strings.Contains(err.Error(), "upwards") {
		t.Errorf("far away: %v", err)
	}
	if _, err := recipetar.Pack(t.Context(), recipe, dir, []recipetar.Part{{Where: "none"}}); !errors.Is(err,
		os.ErrNotExist) {
		t.Errorf("not there: %v", err)
	}
}

// archive writes a tar of headers and contents.
func archive(t testing.TB, all ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range all {
		text := []byte("x")
		if h.Typeflag != tar.TypeReg {
			text = nil
		}
		h.Size = int64(len(text))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestATarThatIsNotOursIsRefused(t *testing.T) {
	good, _, _ := pack(t, 0o644)
	folder := tar.Header{Name: "recipe/", Typeflag: tar.TypeDir, Mode: 0o755}
	file := tar.Header{Name: "recipe/recipe.yaml", Typeflag: tar.TypeReg, Mode: 0o644}
	of := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644} }
	link := tar.Header{Name: "recipe/z", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "/etc"}
	hard := tar.Header{Name: "recipe/z", Typeflag: tar.TypeLink, Linkname: "x"}
	owner := file
	owner.Uid = 1
	for name, data := range map[string][]byte{
		"nothing":                nil,
		"no tar":                 bytes.Repeat([]byte("no tar"), 200),
		"cut off":                good[:len(good)-512],
		"bytes behind the end":   append(bytes.Clone(good), 0),
		"no recipe":              archive(t, folder),
		"a name that leads out":  archive(t, folder, file, of("../x")),
		"an absolute name":       archive(t, of("/x"), folder, file),
		"an owner":               archive(t, folder, owner),
		"a file twice":           archive(t, folder, file, file),
		"another order":          archive(t, file, folder),
		"a folder that is left":  archive(t, file),
		"a file through a link":  archive(t, folder, file, link, of("recipe/z/passwd")),
		"a hard link":            archive(t, folder, file, hard),
		"a device":               archive(t, folder, file, tar.Header{Name: "recipe/z", Typeflag: tar.TypeChar}),
		"a name that is no name": archive(t, folder, of("recipe/./recipe.yaml")),
	} {
		if _, err := recipetar.Recipe(data); err == nil {
			t.Errorf("%s is accepted", name)
		}
		to := t.TempDir()
		if _, err := recipetar.Unpack(data, to); err == nil {
			t.Errorf("%s is unpacked", name)
		}
	}
	if _, err := recipetar.Recipe(archive(t, folder, file, link)); err != nil {
		t.Errorf("a link that leads out, and nothing through it: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	data, _, _ := pack(f, 0o644)
	f.Add(data)
	f.Add(data[:1024]) // it ends in a folder
	f.Fuzz(func(t *testing.T, data []byte) {
		at, err := recipetar.Unpack(data, t.TempDir())
		if err != nil {
			return
		}
		of, err1 := recipetar.Recipe(data)
		got, _, err2 := digest.File(at)
		if err := errors.Join(err1, err2); err != nil || got != of {
			t.Errorf("%s, %s, %v", got, of, err)
		}
	})
}
