package place_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// copyTo copies a release from place to place.
func copyTo(t testing.TB, from, to string, o place.Options) (r *place.Result, err error) {
	t.Helper()
	var none registry.Access
	source, err := place.Open(t.Context(), from, none)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	sink, err := place.Create(t.Context(), to, none)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, sink.Close()) }()
	return place.Copy(t.Context(), source, sink, o)
}

func mustCopy(t testing.TB, from, to string) *place.Result {
	t.Helper()
	r, err := copyTo(t, from, to, place.Options{})
	if err != nil {
		t.Fatalf("from %s to %s: %v", from, to, err)
	}
	return r
}

// signer draws a key.
func signer(t testing.TB) keys.Signer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	_, err := keys.Write(path, keys.Ed25519, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Read(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sign adds a signature to a release.
func sign(t testing.TB, dir string, by keys.Signer) {
	t.Helper()
	f, err := folder.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	head, err := f.Index(t.Context())
	if err == nil {
		head.Envelope, err = judge.Sign(t.Context(), head.Index, head.Envelope, by)
	}
	if err == nil {
		err = f.Finish(t.Context(), head)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// state puts statements of all guests of a release beside it.
func state(t testing.TB, dir string, by ...keys.Signer) {
	t.Helper()
	f, err := folder.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	head, err := f.Index(t.Context())
	for _, k := range by {
		if err == nil {
			head.Reproduced, err = releasetest.Reproduced(head.Index, head.Reproduced, k)
		}
	}
	if err == nil {
		err = f.Finish(t.Context(), head)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// signed makes a release of two guests that somebody has signed, and two have reproduced.
func signed(t testing.TB) string {
	t.Helper()
	two := releasetest.Two()
	two[0].Recipe = []byte("recipe")
	dir, _ := releasetest.Release(t, "1.4.0", two...)
	sign(t, dir, signer(t))
	state(t, dir, signer(t), signer(t))
	return dir
}

// same fails t unless two folders hold the same release, byte for byte.
func same(t testing.TB, a, b string) {
	t.Helper()
	x, err := place.Open(t.Context(), a, registry.Access{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	y, err := place.Open(t.Context(), b, registry.Access{})
	if err != nil {
		t.Fatal(err)
	}
	defer y.Close()
	one, err1 := x.Index(t.Context())
	two, err2 := y.Index(t.Context())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(one, two) {
		t.Errorf("%s and %s differ", a, b)
	}
	of, err := index.Decode(one.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := judge.Contents(t.Context(), of, y, releasetest.Claims); err != nil {
		t.Error(err)
	}
}

// library is go-containerregistry's registry, with and without the interface for referrers.
func library(t testing.TB, referrers bool) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(referrers)))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestAReleaseIsTheSameInEveryPlace(t *testing.T) {
	dir := signed(t)
	tmp := t.TempDir()
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(web.Close)
	for name, host := range map[string]func() string{
		"docker-registry":                    func() string { return registrytest.Distribution(t) },
		"the library's":                      func() string { return library(t, false) },
		"the library's that lists referrers": func() string { return library(t, true) },
	} {
		t.Run(name, func(t *testing.T) {
			at := "oci:" + host() + "/team/guests"
			first := mustCopy(t, dir, at+":stable")
			if first.Kept != 0 || first.Bytes == 0 {
				t.Errorf("first push: %+v", first)
			}
			if again := mustCopy(t, "dir:"+dir, at+":stable"); again.Moved != 0 || again.Bytes != 0 {
				t.Errorf("second push: %+v", again)
			}
			same(t, dir, at+":stable")
			bundle := "bundle:" + filepath.Join(t.TempDir(), "release.tar")
			mustCopy(t, at+":stable", bundle)
			same(t, dir, bundle)
			mustCopy(t, bundle, at+"2") // a repository of its own, by the tag latest
			same(t, dir, at+"2:latest")
			pulled := filepath.Join(t.TempDir(), "pulled")
			mustCopy(t, at+"2", pulled)
			same(t, dir, pulled)
			if again := mustCopy(t, at+"2", pulled); again.Moved != 0 || again.Bytes != 0 {
				t.Errorf("second pull: %+v", again)
			}
			// One more signature moves alone, and all of them count.
			sign(t, pulled, signer(t))
			if more := mustCopy(t, pulled, at+"2"); more.Moved != 0 {
				t.Errorf("a signature more: %+v", more)
			}
			same(t, pulled, at+"2")
		})
	}
	pulled := filepath.Join(tmp, "web")
	mustCopy(t, web.URL, pulled)
	same(t, dir, pulled)
	if again := mustCopy(t, web.URL+"/", pulled); again.Moved != 0 || again.Bytes != 0 {
		t.Errorf("second pull: %+v", again)
	}
	one, two := filepath.Join(tmp, "1.tar"), filepath.Join(tmp, "2.tar")
	mustCopy(t, dir, "bundle:"+one)
	mustCopy(t, pulled, "bundle:"+two)
	a, err1 := os.ReadFile(one)
	b, err2 := os.ReadFile(two)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
		t.Errorf("a bundle is not the same each time: %v", err)
	}
}

func TestAnUnsignedReleaseStaysUnsigned(t *testing.T) {
	dir, _ := releasetest.Release(t, "1.4.0", releasetest.Guest{})
	at := "oci:" + library(t, false) + "/guests"
	mustCopy(t, dir, at)
	same(t, dir, at)
	bundle := "bundle:" + filepath.Join(t.TempDir(), "b")
	mustCopy(t, at, bundle)
	same(t, dir, bundle)
}

// TestAnOldSignatureDoesNotOutliveItsRelease pulls an unsigned release over a signed one.
func TestAnOldSignatureDoesNotOutliveItsRelease(t *testing.T) {
	dir := signed(t)
	unsigned, _ := releasetest.Release(t, "1.5.0", releasetest.Guest{})
	mustCopy(t, unsigned, dir)
	same(t, unsigned, dir)
}

// breaking serves a folder; each answer with a file breaks off after some bytes, and each range that is asked for is
// noted.
type breaking struct {
	in     http.Handler
	after  int64
	most   int // after so many answers it is gone; 0 is never
	mu     sync.Mutex
	ranges []string
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/blobs/") {
		b.in.ServeHTTP(w, r)
		return
	}
	b.mu.Lock()
	b.ranges = append(b.ranges, r.Header.Get("Range"))
	gone := b.most > 0 && len(b.ranges) > b.most
	b.mu.Unlock()
	if gone {
		http.Error(w, "gone", http.StatusServiceUnavailable)
		return
	}
	b.in.ServeHTTP(&cut{ResponseWriter: w, left: b.after}, r)
}

type cut struct {
	http.ResponseWriter
	left int64
}

func (c *cut) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		n, _ := c.ResponseWriter.Write(p[:c.left]) // the line breaks whatever it says
		c.left -= int64(n)
		_ = http.NewResponseController(c.ResponseWriter).Flush() // so that what was sent arrives
		panic(http.ErrAbortHandler)
	}
	c.left -= int64(len(p))
	return c.ResponseWriter.Write(p)
}

func TestADownloadGoesOnWhereItBrokeOff(t *testing.T) {
	mark := strings.Repeat("x", 3000)
	dir, data := releasetest.Release(t, "1.4.0", releasetest.Guest{Mark: mark})
	b := &breaking{in: http.FileServer(http.Dir(dir)), after: 1100}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	pulled := filepath.Join(t.TempDir(), "pulled")
	r := mustCopy(t, s.URL, pulled)
	same(t, dir, pulled)
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, v := range x.Blobs() {
		total += v.Size
	}
	if r.Bytes != total {
		t.Errorf("%d bytes moved, the release has %d", r.Bytes, total)
	}
	bundle := "bundle:" + filepath.Join(t.TempDir(), "release.tar")
	if r := mustCopy(t, s.URL, bundle); r.Bytes != total {
		t.Errorf("into a bundle: %d bytes moved, the release has %d", r.Bytes, total)
	}
	same(t, dir, bundle)
	again := 0
	for _, v := range b.ranges {
		if v != "" {
			again++
		}
	}
	if again < len(x.Blobs())/2 {
		t.Errorf("ranges: %q", b.ranges)
	}
}

func TestAPullThatWasKilledGoesOn(t *testing.T) {
	dir, _ := releasetest.Release(t, "1.4.0", releasetest.Guest{Mark: strings.Repeat("x", 3000)})
	b := &breaking{in: http.FileServer(http.Dir(dir)), after: 300, most: 12}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	pulled := filepath.Join(t.TempDir(), "pulled")
	if _, err := copyTo(t, s.URL, pulled, place.Options{}); err == nil {
		t.Fatal("it did not break off")
	}
	if _, err := os.Stat(filepath.Join(pulled, folder.IndexName)); err == nil {
		t.Error("there is a release, of which others see a part")
	}
	b.after, b.most = 1<<20, 0
	if r := mustCopy(t, s.URL, pulled); r.Bytes == 0 {
		t.Errorf("%+v", r)
	}
	same(t, dir, pulled)
}

func TestManyPullAtOnce(t *testing.T) {
	dir := signed(t)
	at := "oci:" + registrytest.Distribution(t) + "/guests"
	mustCopy(t, dir, at)
	tmp := t.TempDir()
	shared := filepath.Join(tmp, "shared")
	var wait sync.WaitGroup
	var moved atomic.Int64
	for i := range 20 {
		wait.Go(func() {
			to := filepath.Join(tmp, fmt.Sprint(i))
			if i%4 == 0 {
				to = shared
			}
			r, err := copyTo(t, at, to, place.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if to == shared {
				moved.Add(int64(r.Moved))
			}
			same(t, dir, to)
		})
	}
	wait.Wait()
	if n := moved.Load(); n != int64(len(blobs(t, dir))) {
		t.Errorf("%d files moved into one folder, want each once", n)
	}
}

func blobs(t testing.TB, dir string) []index.Blob {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, folder.IndexName))
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return x.Blobs()
}

func TestProgressEndsWithEverything(t *testing.T) {
	dir := signed(t)
	var mu sync.Mutex
	var most, total int64
	_, err := copyTo(t, dir, t.TempDir(), place.Options{Progress: func(moved, of int64) {
		mu.Lock()
		defer mu.Unlock()
		most, total = max(most, moved), of
	}})
	if err != nil || most != total || most == 0 {
		t.Errorf("%d of %d, %v", most, total, err)
	}
}

func TestPlacesThatAreNone(t *testing.T) {
	var none registry.Access
	for name, want := range map[string]string{
		"dir:":                        "empty",
		"oci:guests":                  "want oci:HOST/REPOSITORY",
		"oci:localhost:1/UPPER":       "repository",
		"https://":                    "want http(s)://HOST/FOLDER",
		"http://user:pw@localhost/":   "want http(s)://HOST/FOLDER",
		"http://localhost/?a=b":       "want http(s)://HOST/FOLDER",
		"bundle:/nowhere/release.tar": "no such file",
		"/nowhere":                    "no such file",
	} {
		if s, err := place.Open(context.Background(), name, none); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := place.Create(t.Context(), "https://localhost/", none); err == nil ||
		!strings.Contains(err.Error(), "only read") {
		t.Errorf("got %v", err)
	}
	s, err := place.Open(t.Context(), "http://example.org/release", none)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Index(t.Context()); !errors.As(err, new(*registry.Insecure)) {
		t.Errorf("plain HTTP to another host: %v", err)
	}
}
