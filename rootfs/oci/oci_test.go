package oci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/tree"
	"github.com/katabuild/katabuild/rootfs/tree/tarfile"
	"github.com/katabuild/katabuild/rootfs/tree/treetest"
)

type item struct {
	name, text string
	kind       byte // 0 is a file, or a folder where the name ends in a slash
	link       string
}

func tarOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		h := &tar.Header{Name: i.name, Typeflag: i.kind, Linkname: i.link, Size: int64(len(i.text)), Mode: 0o755}
		if i.kind == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(i.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, i.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, text string) item { return item{name: name, text: text} }
func hard(name, to string) item   { return item{name: name, kind: tar.TypeLink, link: to} }
func soft(name, to string) item   { return item{name: name, kind: tar.TypeSymlink, link: to} }
func gone(names ...string) (l []item) {
	for _, n := range names {
		dir, base := filepath.Split(n)
		l = append(l, item{name: dir + whiteout + base})
	}
	return l
}

// shape lists a tree: names, what regular files hold, and which names are one file.
func shape(t testing.TB, tr *tree.Tree) string {
	t.Helper()
	var b strings.Builder
	first := map[*tree.Node]string{}
	if err := tr.Walk(func(p string, n *tree.Node, _ bool) error {
		switch {
		case p == "/":
			return nil
		case first[n] != "":
			fmt.Fprintf(&b, " %s=%s", p, first[n])
		case n.Kind == tree.Dir:
			fmt.Fprintf(&b, " %s/", p)
		case n.Kind == tree.Symlink:
			fmt.Fprintf(&b, " %s->%s", p, n.Target)
		default:
			first[n] = p
			fmt.Fprintf(&b, " %s", p)
			if n.Content != nil {
				r, err := n.Content.Open()
				if err != nil {
					return err
				}
				defer r.Close()
				text, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				fmt.Fprintf(&b, ":%s", text)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(b.String(), " ")
}

func TestLayersAreStacked(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]item
		want   string
	}{
		"a file over a file": {[][]item{{file("a", "1")}, {file("a", "2")}}, "/a:2"},
		"a whiteout": {[][]item{{file("d/a", "1"), file("d/b", "1")}, gone("d/a")},
			"/d/ /d/b:1"},
		"a whiteout of a folder": {[][]item{{file("d/a", "1"), file("b", "1")}, gone("d")}, "/b:1"},
		"a whiteout of nothing":  {[][]item{{file("a", "1")}, gone("x/y", "a/b", "z")}, "/a:1"},
		"a whiteout and a new file": {[][]item{{file("a", "1")}, append([]item{file("a", "2")},
			gone("a")...)}, "/a:2"},
		"a whiteout in its own layer": {[][]item{append([]item{file("a", "1")}, gone("a")...)}, "/a:1"},
		"an opaque folder": {[][]item{{file("d/a", "1"), file("d/e/f", "1")},
			{{name: "d/"}, file("d/b", "2"), file("d/.wh..wh..opq", "")}}, "/d/ /d/b:2"},
		"an opaque folder, said first": {[][]item{{file("d/a", "1")}, {file("d/.wh..wh..opq", ""), {name: "d/"},
			file("d/b", "2")}}, "/d/ /d/b:2"},
		"an opaque root": {[][]item{{file("d/a", "1")}, {file(".wh..wh..opq", ""),
			file("b", "2")}}, "/b:2"},
		"an opaque folder where a link was": {[][]item{{file("d/a", "1"), soft("l", "d")},
			{{name: "l/"}, file("l/.wh..wh..opq", ""), file("l/b", "2")}}, "/d/ /d/a:1 /l/ /l/b:2"},
		"a whiteout through a link": {[][]item{{file("usr/lib/a", "1"), soft("lib", "usr/lib")},
			gone("lib/a")}, "/lib->usr/lib /usr/ /usr/lib/"},
		"a file through a link": {[][]item{{file("usr/lib/a", "1"), soft("lib", "usr/lib")},
			{file("lib/b", "2")}}, "/lib->usr/lib /usr/ /usr/lib/ /usr/lib/a:1 /usr/lib/b:2"},
		"a file over a folder": {[][]item{{file("d/a", "1")}, {file("d", "2")}}, "/d:2"},
		"a folder over a file": {[][]item{{file("d", "1")}, {{name: "d/"}, file("d/a", "2")}},
			"/d/ /d/a:2"},
		"a folder over a link": {[][]item{{file("x/y", "1"), soft("d", "x")},
			{{name: "d/"}, file("d/a", "2")}}, "/d/ /d/a:2 /x/ /x/y:1"},
		"a link over a folder": {[][]item{{file("d/a", "1")}, {soft("d", "x")}}, "/d->x"},
		"a replaced hard link": {[][]item{{file("orig", "1"), hard("hard", "orig")},
			{file("orig", "2")}}, "/hard:1 /orig:2"},
		"a hard link to a lower layer":   {[][]item{{file("a", "1")}, {hard("b", "a")}}, "/a:1 /b=/a"},
		"a whiteout of one of two names": {[][]item{{file("a", "1"), hard("b", "a")}, gone("a")}, "/b:1"},
		"what aufs left": {[][]item{{file("a", "1"), file(".wh..wh.plnk/1.2", "x"),
			file(".wh..wh.aufs", "")}}, "/a:1"},
		"a whiteout that is a hard link": {[][]item{{file("d/a", "1"), file("d/b", "1")},
			{hard("d/.wh.a", ".wh..wh.plnk/7.1")}}, "/d/ /d/b:1"},
		"whiteouts that are one file": {[][]item{{file("d/a", "1"), file("d/b", "1")},
			{file("d/.wh.a", ""), hard("d/.wh.b", "d/.wh.a")}}, "/d/"},
		"a file becomes a folder": {[][]item{{file("a", "1")}, {file("a/b", "2")}}, "/a/ /a/b:2"},
		"a file far up becomes a folder": {[][]item{{file("a", "1")}, {file("a/b/c/d", "2")}},
			"/a/ /a/b/ /a/b/c/ /a/b/c/d:2"},
		"a link to a file becomes a folder": {[][]item{{file("f", "1"), soft("a", "f")}, {file("a/b", "2")}},
			"/a/ /a/b:2 /f:1"},
		"names with dots":      {[][]item{{{name: "./"}, {name: "./d/"}, file("./d/a", "1")}, gone("./d/a")}, "/d/"},
		"the same layer twice": {[][]item{{file("a", "1")}, gone("a"), {file("a", "1")}}, "/a:1"},
	} {
		var layers [][]byte
		for _, l := range c.layers {
			layers = append(layers, tarOf(t, l...))
		}
		for _, how := range []string{"", "gzip", "zstd"} {
			dir := writeLayout(t, how, layers...)
			img, err := Load(t.Context(), dir, Options{Arch: "amd64", Work: t.TempDir()})
			if err != nil {
				t.Errorf("%s, %q: %v", name, how, err)
				continue
			}
			if got := shape(t, img.Tree); got != c.want {
				t.Errorf("%s, %q: got %s\nwant %s", name, how, got, c.want)
			}
		}
	}
}

// mutate.Extract of go-containerregistry flattens an image too; it is right but for replaced hard links, which these
// layers do not have.
func TestGoContainerregistryAgrees(t *testing.T) {
	layers := [][]item{
		{{name: "etc/"}, file("etc/a", "1"), file("etc/b", "1"), file("opt/x/y", "1"), soft("l", "etc"),
			file("d/e", "1"), hard("h", "etc/b")},
		append(gone("etc/a", "opt/x"), file("opt/z", "2"), item{name: "d/"}, file("d/.wh..wh..opq", ""),
			file("d/f", "2")),
		{file("etc/a", "3"), file("new/a", "3")},
	}
	img := empty.Image
	var raw [][]byte
	for _, l := range layers {
		data := tarOf(t, l...)
		raw = append(raw, data)
		ly, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data)),
				nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, ly); err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config.Env, cf.Config.User = "linux", "amd64", []string{"PATH=/bin"}, "7"
	cf.Config.Labels = map[string]string{"k": "v"}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	flat := filepath.Join(t.TempDir(), "flat.tar")
	r := mutate.Extract(img)
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close(), os.WriteFile(flat, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	// Upper layers come first in it, and links before what they lead to: a second pass has all.
	theirs := tree.New()
	_ = tarfile.Apply(theirs, flat, tarfile.Options{})
	if err := tarfile.Apply(theirs, flat, tarfile.Options{}); err != nil {
		t.Fatal(err)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err == nil {
		err = p.AppendImage(img)
	}
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("example.org/x:1")
	if err == nil {
		err = tarball.WriteToFile(filepath.Join(dir, "saved.tar"), tag, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, ref string
		manifest  digest.Digest
	}{{"layout", "", digest.Digest(want.String())}, {"saved.tar", "example.org/x:1", ""}} {
		got, err := Load(t.Context(), filepath.Join(dir, c.path), Options{Arch: "amd64", Work: t.TempDir(), Ref: c.ref})
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		if s, w := shape(t, got.Tree), shape(t, theirs); s != w {
			t.Errorf("%s: got  %s\ntheirs %s", c.path, s, w)
		}
		if cfg := got.Config.Config; got.Manifest != c.manifest || cfg.User != "7" || len(cfg.Env) != 1 ||
			cfg.Labels["k"] != "v" {
			t.Errorf("%s: %+v", c.path, got)
		}
	}
	ours, err := Load(t.Context(), writeLayout(t, "gzip", raw...), Options{Arch: "amd64", Work: t.TempDir()})
	if err != nil || shape(t, ours.Tree) != shape(t, theirs) {
		t.Errorf("%v", err)
	}
	var _ v1.Image = img
}

type object map[string]any

// builder writes a layout by hand, so that it can be wrong.
type builder struct {
	t   testing.TB
	dir string
}

func newBuilder(t testing.TB) *builder {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	return &builder{t, dir}
}

func (b *builder) write(name string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), data, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *builder) blob(mediaType string, data []byte) object {
	b.t.Helper()
	b.write(blobName(digest.Of(data)), data)
	return object{"mediaType": mediaType, "digest": string(digest.Of(data)), "size": len(data)}
}

func (b *builder) json(v any) []byte {
	b.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

func (b *builder) image(arch, how string, layers ...[]byte) object {
	b.t.Helper()
	diffs, list := []string{}, []object{}
	for _, l := range layers {
		diffs = append(diffs, string(digest.Of(l)))
		list = append(list, b.blob("application/vnd.oci.image.layer.v1.tar+"+how, treetest.Squeeze(b.t, how, l)))
	}
	cfg := b.blob("application/vnd.oci.image.config.v1+json", b.json(object{"os": "linux", "architecture": arch,
		"config": object{"Env": []string{"A=b"}, "User": "1:2"}, "rootfs": object{"type": "layers",
			"diff_ids": diffs}}))
	return b.blob("application/vnd.oci.image.manifest.v1+json",
		b.json(object{"schemaVersion": 2, "config": cfg, "layers": list}))
}

func (b *builder) index(manifests ...object) []byte {
	return b.json(object{"schemaVersion": 2, "manifests": manifests})
}

func writeLayout(t testing.TB, how string, layers ...[]byte) string {
	t.Helper()
	b := newBuilder(t)
	b.write("index.json", b.index(b.image("amd64", how, layers...)))
	return b.dir
}

func with(o object, key string, v any) object {
	c := object{key: v}
	for k, v := range o {
		if k != key {
			c[k] = v
		}
	}
	return c
}

func TestTheRightImageIsChosen(t *testing.T) {
	b := newBuilder(t)
	for1 := func(arch string) object { return b.image(arch, "gzip", tarOf(t, file(arch, "1"))) }
	platform := func(o object, arch, variant string) object {
		return with(o, "platform", object{"os": "linux", "architecture": arch, "variant": variant})
	}
	amd, arm, old := for1("amd64"), for1("arm64"), b.image("amd64", "", tarOf(t, file("old", "1")))
	multi := b.blob("application/vnd.oci.image.index.v1+json", b.index(platform(amd, "amd64", ""),
		platform(arm, "arm64", "v8"),
		with(b.blob("x", []byte("{}")), "platform", object{"os": "unknown", "architecture": "unknown"})))
	sum := func(o object) digest.Digest { return digest.Digest(o["digest"].(string)) }
	named := func(o object, n string) object { return with(o, "annotations", object{refName: n}) }
	for _, c := range []struct {
		name  string
		index []byte
		o     Options
		want  string
	}{
		{"the only one", b.index(amd), Options{Arch: "amd64"}, "/amd64:1"},
		{"by architecture", b.index(multi), Options{Arch: "arm64"}, "/arm64:1"},
		{"by architecture and variant", b.index(multi), Options{Arch: "arm64", Variant: "v8"}, "/arm64:1"},
		{"another variant", b.index(multi), Options{Arch: "arm64", Variant: "v9"}, "no image for linux/arm64"},
		{"another architecture", b.index(multi), Options{Arch: "s390x"},
			"no image for linux/s390x in it, only for linux/amd64, linux/arm64, unknown/unknown"},
		{"without platforms", b.index(amd, arm), Options{Arch: "arm64"}, "/arm64:1"},
		{"two of one architecture", b.index(amd, old), Options{Arch: "amd64"}, "/amd64:1"},
		{"two of one architecture, the other way", b.index(old, amd), Options{Arch: "amd64"}, "/old:1"},
		{"by name", b.index(named(amd, "new"), named(old, "old")), Options{Arch: "amd64", Ref: "old"}, "/old:1"},
		{"two names of one", b.index(named(amd, "new"), named(amd, "latest")), Options{Arch: "amd64"}, "/amd64:1"},
		{"no such name", b.index(named(amd, "new")), Options{Arch: "amd64", Ref: "old"}, `no image called "old"`},
		{"by digest", b.index(amd, old), Options{Arch: "amd64", Digest: sum(old)}, "/old:1"},
		{"by the digest of an index", b.index(multi), Options{Arch: "amd64", Digest: sum(multi)}, "/amd64:1"},
		{"by a digest in an index", b.index(multi), Options{Arch: "amd64", Digest: sum(amd)}, "/amd64:1"},
		{"another digest", b.index(amd), Options{Arch: "amd64", Digest: sum(old)}, "wrong digest"},
		{"the configuration's architecture", b.index(platform(arm, "amd64", "")), Options{Arch: "amd64"},
			"it is for linux/arm64"},
		{"nothing", b.index(), Options{Arch: "amd64"}, "no such image"},
		{"names there are", b.index(named(amd, "new")), Options{Arch: "amd64", Ref: "old"},
			`it holds ["new"] (` + string(sum(amd))},
		{"Docker's name in full", b.index(named(amd, "docker.io/library/x:1"), named(old, "old")),
			Options{Arch: "amd64", Ref: "x:1"}, "/amd64:1"},
		{"no such digest", b.index(amd, arm), Options{Arch: "amd64", Digest: sum(old)}, "no image with the digest"},
		{"an index for another one beside ours", b.index(b.blob("application/vnd.oci.image.index.v1+json",
			b.index(platform(arm, "arm64", ""))), amd), Options{Arch: "amd64"}, "/amd64:1"},
		{"a signature beside it", b.index(amd, b.blob("s",
			b.json(object{"schemaVersion": 2, "config": b.blob("t", []byte("text")), "layers": []object{}}))),
			Options{Arch: "amd64"}, "/amd64:1"},
	} {
		b.write("index.json", c.index)
		c.o.Work = t.TempDir()
		img, err := Load(t.Context(), b.dir, c.o)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = shape(t, img.Tree)
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestFalseImagesAreRefused(t *testing.T) {
	layer := tarOf(t, file("a", "1"))
	config := object{"os": "linux", "architecture": "amd64", "rootfs": object{"type": "layers",
		"diff_ids": []string{string(digest.Of(layer))}}}
	// made puts an image together of its parts.
	made := func(b *builder, cfg, l object) {
		b.write("index.json", b.index(b.blob("m", b.json(object{"schemaVersion": 2, "config": cfg,
			"layers": []object{l}}))))
	}
	for name, c := range map[string]struct {
		make func(b *builder)
		want string
	}{
		"another layer": {func(b *builder) {
			l := b.blob("l", layer)
			b.write(blobName(digest.Of(layer)), tarOf(t, file("a", "2")))
			made(b, b.blob("c", b.json(config)), l)
		}, "wrong digest"},
		"something behind the layer": {func(b *builder) {
			l := b.blob("l", treetest.Squeeze(t, "zstd", layer))
			b.write(blobName(digest.Of(treetest.Squeeze(t, "zstd", layer))),
				append(treetest.Squeeze(t, "zstd", layer), treetest.Squeeze(t, "zstd", nil)...))
			made(b, b.blob("c", b.json(config)), l)
		}, "wrong digest"},
		"another size": {func(b *builder) {
			made(b, b.blob("c", b.json(config)), with(b.blob("l", layer), "size",
				7))
		}, "its descriptor says 7"},
		"a negative size": {func(b *builder) {
			made(b, b.blob("c", b.json(config)), with(b.blob("l", layer), "size",
				-7))
		}, "size -7"},
		"another diff id": {func(b *builder) {
			made(b, b.blob("c", b.json(config)),
				b.blob("l", tarOf(t, file("a", "2"))))
		}, "uncompressed: wrong digest"},
		"a missing layer": {func(b *builder) {
			made(b, b.blob("c", b.json(config)), object{"digest": string(digest.Of(nil)), "size": 0})
		}, "no such file"},
		"an encrypted layer": {func(b *builder) {
			made(b, b.blob("c", b.json(config)),
				b.blob("l+encrypted", layer))
		}, "encrypted"},
		"another hash": {func(b *builder) {
			made(b, b.blob("c", b.json(config)), object{"digest": "sha512:00",
				"size": 1})
		}, "sha256"},
		"a digest of a path": {func(b *builder) {
			made(b, object{"digest": "sha256:../../../etc/passwd", "size": 1}, b.blob("l", layer))
		}, "digest"},
		"too few diff ids": {func(b *builder) {
			made(b, b.blob("c", b.json(with(config, "rootfs", object{"type": "layers"}))), b.blob("l", layer))
		}, "1 layers, and 0"},
		"no image": {func(b *builder) { made(b, b.blob("c", []byte("{}")), b.blob("l", layer)) },
			"want linux/amd64"},
		"no JSON":    {func(b *builder) { b.write("index.json", []byte("{")) }, "index.json"},
		"two values": {func(b *builder) { b.write("index.json", []byte("{}{}")) }, "more than one value"},
		"neither of both": {func(b *builder) {
			b.write("index.json",
				b.index(b.blob("x", []byte(`{"schemaVersion":2}`))))
		}, "neither a manifest nor an index"},
		"both": {func(b *builder) {
			b.write("index.json", b.index(b.blob("x", []byte(`{"schemaVersion":2,"manifests":[],"config":{}}`))))
		}, "neither"},
		"an old schema": {func(b *builder) {
			b.write("index.json", b.index(b.blob("x", []byte(`{"schemaVersion":1,"config":{}}`))))
		}, "schema version 1"},
		"a key in other letters' case": {func(b *builder) {
			b.write("index.json", append(bytes.TrimSuffix(b.index(), []byte("}")), []byte(`,"Manifests":[]}`)...))
		}, `the key "Manifests": want "manifests"`},
		"only a key in other letters' case": {func(b *builder) {
			b.write("index.json",
				[]byte(`{"schemaVersion":2,"MANIFESTS":[]}`))
		}, `the key "MANIFESTS"`},
		"a key twice": {func(b *builder) {
			b.write("index.json",
				[]byte(`{"schemaVersion":2,"manifests":[],"manifests":[]}`))
		}, "stands twice"},
		"a key twice, further in": {func(b *builder) {
			b.write("index.json", []byte(`{"schemaVersion":2,"manifests":[{"digest":"x","size":1,"Digest":"y"}]}`))
		}, `the key "Digest"`},
		"a huge index": {func(b *builder) { b.write("index.json", bytes.Repeat([]byte(" "), maxPaper+1)) },
			"more than"},
		"a link out": {func(b *builder) { os.Symlink("/etc/hostname", filepath.Join(b.dir, "index.json")) },
			"index.json"},
		"a folder for a file": {func(b *builder) { os.Mkdir(filepath.Join(b.dir, "index.json"), 0o755) },
			"no regular file"},
		"an empty folder": {func(b *builder) {}, "neither an image layout nor saved by docker"},
		"a hard link outside": {func(b *builder) {
			b.write("index.json", b.index(b.image("amd64", "", tarOf(t, hard("a", "../../etc/passwd")))))
		}, `entry "a"`},
		"a bomb": {func(b *builder) {
			b.write("index.json", b.index(b.image("amd64", "gzip", tarOf(t, file("a", strings.Repeat("0", 1<<20))))))
		}, "more bytes than allowed"},
		"no whiteout": {func(b *builder) {
			b.write("index.json",
				b.index(b.image("amd64", "", tarOf(t, file("d/.wh...", "")))))
		}, "whiteout"},
		"no tar": {func(b *builder) {
			b.write("index.json", b.index(b.image("amd64", "", bytes.Repeat([]byte("x"), 1024))))
		}, "layer 0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t)
			c.make(b)
			if _, err := Load(t.Context(), b.dir, Options{Arch: "amd64", Work: t.TempDir(),
				MaxLayer: 1 << 20}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestArchivesOfImages(t *testing.T) {
	dir := writeLayout(t, "gzip", tarOf(t, file("a", "1")))
	var items []item
	if err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		items = append(items, file("./"+rel, string(data)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	layer := tarOf(t, file("a", "1"))
	cfg := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q,%q]}}`,
		digest.Of(layer), digest.Of(layer))
	id := digest.Of([]byte(cfg)).Hex()
	docker := []item{file("1/layer.tar", string(layer)), soft("2/layer.tar", "../1/layer.tar"), file(id+".json", cfg),
		file("manifest.json", fmt.Sprintf(
			`[{"Config":"%s.json","RepoTags":["x:1"],"Layers":["1/layer.tar","2/layer.tar"]}]`, id))}
	loop := append(docker[1:], soft("1/layer.tar", "../2/layer.tar"))
	for name, c := range map[string]struct {
		data []byte
		ref  string
		want string
	}{
		"a layout":              {tarOf(t, items...), "", "/a:1"},
		"a layout, compressed":  {treetest.Squeeze(t, "zstd", tarOf(t, items...)), "", "/a:1"},
		"saved by docker":       {tarOf(t, docker...), "x:1", "/a:1"},
		"saved, without a name": {treetest.Squeeze(t, "gzip", tarOf(t, docker...)), "", "/a:1"},
		"saved, another name":   {tarOf(t, docker...), "x:2", `it holds ["x:1"]`},
		"links in a circle":     {tarOf(t, loop...), "", "no such file"},
		"another configuration": {bytes.Replace(tarOf(t, docker...), []byte(`"os":"linux"`), []byte(`"os":"Linux"`),
			1), "", "wrong digest"},
		"another layer": {bytes.Replace(tarOf(t, docker...), append([]byte("1"), make([]byte, 511)...),
			append([]byte("2"), make([]byte, 511)...), 1), "", ""},
		"rubbish": {[]byte("rubbish"), "", ""},
		"nothing": {nil, "", "empty"},
	} {
		p := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(p, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		img, err := Load(t.Context(), p, Options{Arch: "amd64", Work: t.TempDir(), Ref: c.ref})
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = shape(t, img.Tree)
		}
		if !strings.Contains(got, c.want) || c.want == "" && err == nil {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestLabelsMayDifferInCase(t *testing.T) {
	var c Config
	if err := unmarshal("configuration", []byte(`{"config":{"Labels":{"Name":"1","name":"2"}}}`), &c); err != nil ||
		len(c.Config.Labels) != 2 {
		t.Errorf("%v, %v", c.Config.Labels, err)
	}
}

// An index that names one index many times, which names one many times, was read as often as all numbers together say.
func TestIndexesInIndexesEndSoon(t *testing.T) {
	b := newBuilder(t)
	o := b.image("amd64", "gzip", tarOf(t, file("a", "1")))
	for range 3 {
		many := make([]object, 2000)
		for i := range many {
			many[i] = o
		}
		o = b.blob("application/vnd.oci.image.index.v1+json", b.index(many...))
	}
	b.write("index.json", b.index(o))
	began := time.Now()
	img, err := Load(t.Context(), b.dir, Options{Arch: "amd64", Work: t.TempDir()})
	if took := time.Since(began); err != nil || took > 10*time.Second {
		t.Fatalf("%v after %v", err, took)
	}
	if got := shape(t, img.Tree); got != "/a:1" {
		t.Error(got)
	}
	var list []object
	for i := range maxDocuments + 1 {
		list = append(list, b.blob("application/vnd.oci.image.index.v1+json",
			b.json(object{"schemaVersion": 2, "manifests": []object{}, "n": i})))
	}
	b.write("index.json", b.index(list...))
	if _, err := Load(t.Context(), b.dir, Options{Arch: "amd64", Work: t.TempDir()}); err == nil ||
		!strings.Contains(err.Error(), "have to be read") {
		t.Error(err)
	}
}

func TestSavedImagesAreChosenByTagOrDigest(t *testing.T) {
	var items []item
	var documents []string
	ids := map[string]string{}
	for _, name := range []string{"a", "b"} {
		layer := tarOf(t, file(name, "1"))
		cfg := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`,
			digest.Of(layer))
		id := digest.Of([]byte(cfg)).Hex()
		ids[name] = id
		items = append(items, file(name+".tar", string(layer)), file(id+".json", cfg))
		documents = append(documents, fmt.Sprintf(
			`{"Config":"%s.json","RepoTags":["%s:1","%s:latest"],"Layers":["%s.tar"]}`, id, name, name, name))
	}
	p := filepath.Join(t.TempDir(), "saved.tar")
	if err := os.WriteFile(p, tarOf(t, append(items, file("manifest.json", "["+strings.Join(documents, ",")+"]"))...),
		0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ref, sum, want string
	}{
		{"a:1", "", "/a:1"}, {"b:latest", "", "/b:1"}, {"", "sha256:" + ids["b"], "/b:1"},
		{"", "", "/a:1"},
		{"c:1", "", `no image called "c:1" in it; it holds ["a:1"`}, {"", "sha256:" + strings.Repeat("0", 64),
			"no image whose configuration has the digest"},
	} {
		o := Options{Arch: "amd64", Work: t.TempDir(), Ref: c.ref, Digest: digest.Digest(c.sum)}
		fitting, checked := Check(t.Context(), p, o)
		if several := c.ref == "" && c.sum == ""; several != strings.HasPrefix(fitting, `["a:1" "a:latest"] (`) ||
			!several && fitting != "" {
			t.Errorf("%q %q: there fit %q", c.ref, c.sum, fitting)
		}
		img, err := Load(t.Context(), p, o)
		got := fmt.Sprint(err)
		if err == nil {
			got = shape(t, img.Tree)
		}
		if !strings.Contains(got, c.want) || (checked == nil) != (err == nil) {
			t.Errorf("%q %q: got %s, want %s; checked: %v", c.ref, c.sum, got, c.want, checked)
		}
	}
}

func TestWhatTookTheRoomOfALinkIsKnown(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]item
		want   bool
	}{
		"a folder": {[][]item{{{name: "lib/"}, file("lib/x", "1")}}, false},
		"a whiteout and a folder": {[][]item{{file(".wh.lib", ""), {name: "lib/"}, file("lib/x", "1")}},
			true},
		"an opaque folder":                   {[][]item{{{name: "lib/"}, file("lib/.wh..wh..opq", "")}}, true},
		"a folder where a layer had a link":  {[][]item{{soft("lib", "usr/lib")}, {{name: "lib/"}}}, true},
		"a whiteout first, the folder later": {[][]item{{file(".wh.lib", "")}, {{name: "lib/"}}}, true},
	} {
		var layers [][]byte
		for _, l := range c.layers {
			layers = append(layers, tarOf(t, l...))
		}
		img, err := Load(t.Context(), writeLayout(t, "gzip", layers...), Options{Arch: "amd64", Work: t.TempDir()})
		if err != nil || img.Replaces["/lib"] != c.want {
			t.Errorf("%s: %v, %v", name, img, err)
		}
	}
}

// FuzzLayers: whatever two layers hold, stacking them ends, inside the tree.
func FuzzLayers(f *testing.F) {
	f.Add(tarOf(f, file("d/a", "1"), soft("l", "d"), hard("h", "d/a")),
		tarOf(f, append(gone("l/a"), item{name: "l/"}, file("l/.wh..wh..opq", ""))...))
	f.Add(tarOf(f, file("a", "1")), tarOf(f, append(gone("../a"), file("a/b", "2"))...))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		tr := tree.New()
		for _, data := range [][]byte{a, b} {
			p := filepath.Join(t.TempDir(), "layer.tar")
			if err := os.WriteFile(p, data, 0o644); err != nil {
				t.Fatal(err)
			}
			if apply(t.Context(), tr, p, "layer", map[string]bool{}) != nil {
				break
			}
		}
		shape(t, tr)
	})
}

// FuzzImage: whatever an archive of an image holds, reading it ends.
func FuzzImage(f *testing.F) {
	layer := tarOf(f, file("a", "1"))
	cfg := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`,
		digest.Of(layer))
	id := digest.Of([]byte(cfg)).Hex()
	f.Add(tarOf(f, file("l", string(layer)), file(id+".json", cfg),
		file("manifest.json", fmt.Sprintf(`[{"Config":"%s.json","Layers":["l"]}]`, id))))
	f.Add(tarOf(f, file("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:`+id+`","size":9}]}`),
		file("blobs/sha256/"+id, cfg)))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, _ = Load(t.Context(), p, Options{Arch: "amd64", Work: t.TempDir(), MaxLayer: 1 << 20})
	})
}
