package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/fetch/archivetest"
	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/locking"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// contents are files of a package: so many, each of random bytes around a size.
func contents(name string, seed byte, n, size int) map[string]string {
	source := rand.NewChaCha8([32]byte{seed})
	r := rand.New(source)
	out := map[string]string{}
	for i := range n {
		b := make([]byte, size/2+r.IntN(size))
		_, _ = source.Read(b) // which never fails
		out[fmt.Sprintf("/usr/share/%s/file%d", name, i)] = string(b)
	}
	return out
}

// disk builds a disk of Debian packages, one of which, app, is of a version; a file system as a recipe has it.
func disk(t *testing.T, image string, app map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a := archivetest.New(t)
	for name, files := range map[string]map[string]string{"base": contents("base", 1, 100, 60_000), "app": app,
		"tools": contents("tools", 2, 100, 20_000)} {
		a.Add(t, archivetest.Package{Suite: "trixie", Name: name, Version: "1", Files: files})
	}
	text := "version: 1\nname: case\nextension: true\nrootfs:\n  layers:\n" +
		"    - debian: {packages: [base, app, tools]}\n" + image
	c := inputs.Config{Recipe: filepath.Join(dir, "recipe.yaml"), Store: s, HTTPArchive: a.URL,
		ArchiveKeyring: a.Keyring, Now: func() time.Time { return a.Date.Add(time.Hour) }}
	if err := os.WriteFile(c.Recipe, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := locking.MakeLock(t.Context(), c, locking.Options{}); err != nil {
		t.Fatal(err)
	}
	g, err := builder.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := g.Build(t.Context(), []string{builder.ImageStep}, filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(b.Dir, "image.img"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// changed is how many bytes of fresh are in blocks of 4 KiB that old does not have.
func changed(old, fresh []byte) (n int64) {
	have := map[[32]byte]bool{}
	for i := 0; i+4096 <= len(old); i += 4096 {
		have[sha256.Sum256(old[i:i+4096])] = true
	}
	for i := 0; i+4096 <= len(fresh); i += 4096 {
		if sum := sha256.Sum256(fresh[i : i+4096]); !have[sum] {
			have[sum] = true
			n += 4096
		}
	}
	return n
}

// counter is a server in front of another one that counts the bytes of its answers.
func counter(t *testing.T, behind http.Handler) (string, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		behind.ServeHTTP(&counted{w, &n}, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), &n
}

type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// copyRelease copies a release; seed may be empty.
func copyRelease(ctx context.Context, from, to, seed string) (err error) {
	source, err := place.Open(ctx, from, registry.Access{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	sink, err := place.Create(ctx, to, registry.Access{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	var o place.Options
	if seed != "" {
		o.Seeds = []string{seed}
	}
	_, err = place.Copy(ctx, source, sink, o)
	return err
}

// TestAPackageThatChangesMovesLittleMore pulls a release whose disk differs from the one before in one package, from a
// web server and from Debian's registry.
func TestAPackageThatChangesMovesLittleMore(t *testing.T) {
	registryAt, err := url.Parse("http://" + registrytest.Distribution(t))
	if err != nil {
		t.Fatal(err)
	}
	behind := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(registryAt)
		r.Out.Host = r.In.Host
	}}
	for name, image := range map[string]string{"erofs": "", "packed erofs": "image: {compression: lz4}\n"} {
		t.Run(name, func(t *testing.T) {
			old := disk(t, image, contents("app", 3, 30, 40_000))
			fresh := disk(t, image, contents("app", 4, 31, 40_000))
			before, _ := releasetest.Release(t, "1.4.0", releasetest.Guest{Disk: true, Image: old})
			after, _ := releasetest.Release(t, "1.5.0", releasetest.Guest{Disk: true, Image: fresh})
			web, fromWeb := counter(t, http.FileServer(http.Dir(after)))
			at, fromRegistry := counter(t, behind)
			repository := "oci:" + at + "/" + strings.ReplaceAll(name, " ", "-") + ":stable"
			if err := copyRelease(t.Context(), after, repository, ""); err != nil {
				t.Fatal(err)
			}
			for from, n := range map[string]*atomic.Int64{"http://" + web: fromWeb, repository: fromRegistry} {
				host := filepath.Join(t.TempDir(), "host")
				if err := copyRelease(t.Context(), before, host, ""); err != nil {
					t.Fatal(err)
				}
				n.Store(0)
				seed := filepath.Join(host, folder.BlobName(digest.Of(old)))
				if err := copyRelease(t.Context(), from, host, seed); err != nil {
					t.Fatal(err)
				}
				if err := digest.Check(filepath.Join(host, folder.BlobName(digest.Of(fresh))),
					digest.Of(fresh)); err != nil {
					t.Error(err)
				}
				least := changed(old, fresh)
				t.Logf("%s: %d bytes of a disk of %d; %d changed, %.1f %%", from, n.Load(), len(fresh), least,
					100*float64(n.Load())/float64(least))
				if n.Load() > least*11/10 {
					t.Errorf("%s: %d bytes moved, %d have changed", from, n.Load(), least)
				}
			}
		})
	}
}
