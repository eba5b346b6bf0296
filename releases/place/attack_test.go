package place_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/place"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// refused fails t unless err is a refusal for a reason.
func refused(t *testing.T, err error, want refusal.Reason) {
	t.Helper()
	if r, ok := errors.AsType[*refusal.Error](err); !ok || r.Reason != want {
		t.Errorf("got %v, want the refusal %q", err, want)
	}
}

// lying is a registry or a web server in front of another one, whose answers change. body is nil for answers that are
// only looked at.
func lying(t *testing.T, behind string, change func(path string, r *http.Response, body []byte) []byte) string {
	t.Helper()
	to, err := url.Parse("http://" + behind)
	if err != nil {
		t.Fatal(err)
	}
	p := &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Method != http.MethodGet {
				return nil
			}
			data, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			n := r.ContentLength
			data = change(r.Request.URL.Path, r, data)
			if r.ContentLength == n { // unless it lies about that
				r.ContentLength = int64(len(data))
				r.Header.Set("Content-Length", fmt.Sprint(len(data)))
			}
			r.Body = io.NopCloser(bytes.NewReader(data))
			return nil
		}}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// digestOf is what a manifest is called.
func digestOf(data []byte) string { return string(digest.Of(data)) }

func TestARegistryThatLiesIsRefused(t *testing.T) {
	dir := signed(t)
	honest := library(t, false)
	mustCopy(t, dir, "oci:"+honest+"/guests:stable")
	kernel := digest.Of([]byte("bzImage")).Hex()
	isTag := func(p string) bool { return strings.HasSuffix(p, "/manifests/stable") }
	isIndex := func(body []byte) bool { return bytes.Contains(body, []byte(`"manifests":[`)) }
	relabel := func(r *http.Response, data []byte) []byte {
		r.Header.Set("Docker-Content-Digest", digestOf(data))
		return data
	}
	for _, c := range []struct {
		name   string
		want   refusal.Reason
		change func(path string, r *http.Response, body []byte) []byte
	}{
		{"about the bytes of a file", refusal.Digest, func(p string, _ *http.Response, b []byte) []byte {
			if strings.HasSuffix(p, kernel) {
				return []byte("BZimage")
			}
			return b
		}},
		{"about the size of a file, which is shorter", refusal.Size, func(p string, _ *http.Response, b []byte) []byte {
			if strings.HasSuffix(p, kernel) {
				return b[:3]
			}
			return b
		}},
		{"about the size of a file, which is longer", refusal.Size, func(p string, _ *http.Response, b []byte) []byte {
			if strings.HasSuffix(p, kernel) {
				return append(b, "and more"...)
			}
			return b
		}},
		{"about how a file is packed", refusal.MediaType, func(p string, r *http.Response, b []byte) []byte {
			if strings.HasSuffix(p, kernel) {
				r.Header.Set("Content-Encoding", "br")
			}
			return b
		}},
		{"about a range that nobody asked for", refusal.Range, func(p string, r *http.Response, b []byte) []byte {
			if strings.HasSuffix(p, kernel) {
				r.StatusCode = http.StatusPartialContent
				r.Header.Set("Content-Range", "bytes 0-6/7")
			}
			return b
		}},
		{"about the type of the index", refusal.MediaType, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) {
				r.Header.Set("Content-Type", v1.MediaTypeImageManifest)
			}
			return b
		}},
		{"about the type of a manifest", refusal.MediaType, func(p string, r *http.Response, b []byte) []byte {
			if strings.Contains(p, "/manifests/sha256:") {
				r.Header.Set("Content-Type", v1.MediaTypeImageIndex)
			}
			return b
		}},
		{"about the digest of the index", refusal.Digest, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) {
				return bytes.Replace(b, []byte("amd64"), []byte("arm64"), 1)
			}
			return b
		}},
		{"about an architecture", refusal.OCIIndex, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) {
				return relabel(r, bytes.Replace(b, []byte(`"amd64"`), []byte(`"arm64"`), 1))
			}
			return b
		}},
		{"about a version, by an annotation", refusal.OCIIndex, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) {
				return relabel(r, bytes.Replace(b, []byte(`"1.4.0"`), []byte(`"1.3.0"`), 1))
			}
			return b
		}},
		{"about the channel, by an annotation", refusal.OCIIndex, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) {
				return relabel(r, bytes.Replace(b, []byte(`"stable"`), []byte(`"public"`), 1))
			}
			return b
		}},
		{"about what is a release", refusal.OCIIndex, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) {
				return relabel(r, bytes.ReplaceAll(b, []byte("katabuild.release"), []byte("somebody.release")))
			}
			return b
		}},
		{"about everything", refusal.Document, func(p string, r *http.Response, b []byte) []byte {
			if isTag(p) && isIndex(b) {
				return relabel(r, []byte(`{"manifests": 7}`))
			}
			return b
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := false
			at := lying(t, honest, func(p string, r *http.Response, b []byte) []byte {
				before := fmt.Sprint(r.Header, r.StatusCode)
				after := c.change(p, r, bytes.Clone(b))
				changed = changed || !bytes.Equal(after, b) || before != fmt.Sprint(r.Header, r.StatusCode)
				return after
			})
			to := t.TempDir()
			_, err := copyTo(t, "oci:"+at+"/guests:stable", to, place.Options{})
			if !changed {
				t.Fatal("nothing was changed")
			}
			refused(t, err, c.want)
			if _, err := os.Stat(filepath.Join(to, folder.IndexName)); err == nil {
				t.Error("others see a release")
			}
		})
	}
}

// TestARegistryCannotMoveSignatures has one release's signatures refer to another one.
func TestARegistryCannotMoveSignatures(t *testing.T) {
	dir := signed(t)
	host := library(t, false)
	mustCopy(t, dir, "oci:"+host+"/guests:stable")
	unsigned, _ := releasetest.Release(t, "9.0.0", releasetest.Guest{})
	mustCopy(t, unsigned, "oci:"+host+"/guests:new")
	tagOf := func(name string) []byte {
		resp, err := http.Get("http://" + host + "/v2/guests/manifests/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, err)
		}
		return data
	}
	schema := func(index []byte) string { return strings.Replace(digestOf(index), ":", "-", 1) }
	list := tagOf(schema(tagOf("stable")))
	at := lying(t, host, func(p string, r *http.Response, b []byte) []byte {
		if strings.HasSuffix(p, schema(tagOf("new"))) {
			r.StatusCode, r.Status = http.StatusOK, "200 OK"
			r.Header.Set("Content-Type", v1.MediaTypeImageIndex)
			r.Header.Set("Docker-Content-Digest", digestOf(list))
			return list
		}
		return b
	})
	_, err := copyTo(t, "oci:"+at+"/guests:new", t.TempDir(), place.Options{})
	refused(t, err, refusal.Signature)
}

func TestAWebServerThatLiesIsRefused(t *testing.T) {
	dir := signed(t)
	files := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(files.Close)
	kernel := digest.Of([]byte("bzImage")).Hex()
	for _, c := range []struct {
		name   string
		begun  string // what a pull that broke off has left of the kernel
		want   refusal.Reason
		change func(r *http.Response, body []byte) []byte
	}{
		{"other bytes", "", refusal.Digest, func(_ *http.Response, b []byte) []byte { return bytes.ToUpper(b) }},
		{"too few", "", refusal.Size, func(_ *http.Response, b []byte) []byte { return b[1:] }},
		{"too few, without a length", "", refusal.Size, func(r *http.Response, b []byte) []byte {
			r.ContentLength = -1
			r.Header.Del("Content-Length")
			return b[1:]
		}},
		{"too many, without a length", "", refusal.Size, func(r *http.Response, b []byte) []byte {
			r.ContentLength = -1
			r.Header.Del("Content-Length")
			return append(b, "more"...)
		}},
		{"the wrong range", "bzI", refusal.Range, func(r *http.Response, b []byte) []byte {
			r.Header.Set("Content-Range", "bytes 2-6/7")
			return append([]byte("I"), b...)
		}},
		{"a range of another file", "bzI", refusal.Range, func(r *http.Response, b []byte) []byte {
			r.Header.Set("Content-Range", "bytes 3-6/700")
			return b
		}},
		{"no range at all", "bzI", "", func(r *http.Response, _ []byte) []byte {
			r.StatusCode = http.StatusOK
			r.Header.Del("Content-Range")
			return []byte("bzImage")
		}},
		{"no such range", "bzI", refusal.Range, func(r *http.Response, _ []byte) []byte {
			r.StatusCode = http.StatusRequestedRangeNotSatisfiable
			return nil
		}},
		{"the end of other bytes", "BZI", refusal.Digest, func(_ *http.Response, b []byte) []byte { return b }},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := lying(t, strings.TrimPrefix(files.URL, "http://"), func(p string, r *http.Response, b []byte) []byte {
				if strings.HasSuffix(p, kernel) {
					return c.change(r, b)
				}
				return b
			})
			to := t.TempDir()
			if c.begun != "" {
				part := filepath.Join(to, "blobs/partial")
				if err := errors.Join(os.MkdirAll(part, 0o755), os.WriteFile(filepath.Join(part, kernel),
					[]byte(c.begun), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := copyTo(t, "http://"+at, to, place.Options{})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			refused(t, err, c.want)
			// What was refused is no beginning of the next attempt.
			mustCopy(t, files.URL, to)
			same(t, dir, to)
		})
	}
}

// entry is one of a bundle.
type entry struct {
	h    tar.Header
	data []byte
}

func readBundle(t testing.TB, path string) []entry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []entry
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{*h, data})
	}
}

func writeBundle(t testing.TB, path string, all []entry) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range all {
		if e.h.Typeflag == tar.TypeReg {
			e.h.Size = int64(len(e.data))
		}
		err := w.WriteHeader(&e.h)
		if err == nil {
			_, err = w.Write(e.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), os.WriteFile(path, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestABundleThatIsNotOursIsRefused(t *testing.T) {
	dir := signed(t)
	good := filepath.Join(t.TempDir(), "good.tar")
	mustCopy(t, dir, "bundle:"+good)
	file := func(name string, data string) entry {
		return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte(data)}
	}
	for _, c := range []struct {
		name  string
		want  refusal.Reason
		spoil func([]entry) []entry
	}{
		{"a name that leads out", refusal.Path, func(e []entry) []entry { return append(e, file("../evil", "x")) }},
		{"an absolute name", refusal.Path, func(e []entry) []entry { return append(e, file("/etc/evil", "x")) }},
		{"a file too many", refusal.Path, func(e []entry) []entry {
			return append(e, file(folder.BlobName(digest.Of(nil)), ""))
		}},
		{"a name that leads out, first", refusal.Path, func(e []entry) []entry {
			return append([]entry{file("../evil", "x")}, e...)
		}},
		{"a file twice", refusal.Twice, func(e []entry) []entry { return append(e[:4:4], e[3:]...) }},
		{"statements twice", refusal.Twice, func(e []entry) []entry { return append(e[:3:3], e[2:]...) }},
		{"statements before signatures", refusal.Twice, func(e []entry) []entry {
			e[1], e[2] = e[2], e[1]
			return e
		}},
		{"two indexes", refusal.Twice, func(e []entry) []entry { return append(e, e[0]) }},
		{"another order", refusal.Document, func(e []entry) []entry {
			e[3], e[4] = e[4], e[3]
			return e
		}},
		{"a file missing", refusal.Size, func(e []entry) []entry { return e[:len(e)-1] }},
		{"a file shorter", refusal.Size, func(e []entry) []entry {
			e[4].data = e[4].data[1:]
			return e
		}},
		{"a file longer", refusal.Size, func(e []entry) []entry {
			e[4].data = append(e[4].data, 'x')
			return e
		}},
		{"other bytes", refusal.Digest, func(e []entry) []entry {
			e[4].data = bytes.Repeat([]byte{'x'}, len(e[4].data))
			return e
		}},
		{"a link", refusal.Size, func(e []entry) []entry {
			e[4].h.Typeflag, e[4].h.Linkname, e[4].data, e[4].h.Size = tar.TypeSymlink, "/etc/passwd", nil, 0
			return e
		}},
		{"a link as index", refusal.Document, func(e []entry) []entry {
			e[0].h.Typeflag, e[0].h.Linkname, e[0].data, e[0].h.Size = tar.TypeSymlink, "/etc/passwd", nil, 0
			return e
		}},
		{"an owner", refusal.Document, func(e []entry) []entry {
			e[4].h.Uid = 1000
			return e
		}},
		{"a mode", refusal.Document, func(e []entry) []entry {
			e[4].h.Mode = 0o4755
			return e
		}},
		{"an extension", refusal.Document, func(e []entry) []entry {
			e[4].h.Format = tar.FormatPAX
			e[4].h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
			return e
		}},
		{"an index of megabytes", refusal.Size, func(e []entry) []entry {
			e[0].data = make([]byte, 5<<20)
			return e
		}},
		{"an index that names another folder", refusal.Path, func(e []entry) []entry {
			e[0].data = bytes.Replace(e[0].data, []byte(`"name": "bzImage"`), []byte(`"name": "../mage"`), 1)
			return e
		}},
		{"nothing", refusal.Document, func([]entry) []entry { return nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "bad.tar")
			writeBundle(t, path, c.spoil(readBundle(t, good)))
			_, err := copyTo(t, "bundle:"+path, t.TempDir(), place.Options{})
			refused(t, err, c.want)
		})
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want refusal.Reason
	}{
		"cut off in a file":    {whole[:len(whole)-3000], refusal.Document},
		"bytes behind the end": {append(bytes.Clone(whole), 'x'), refusal.Size},
		"a tar behind the tar": {append(bytes.Clone(whole), whole...), refusal.Size},
		"no tar":               {[]byte(strings.Repeat("no tar at all", 100)), refusal.Document},
	} {
		path := filepath.Join(t.TempDir(), "bad.tar")
		if err := os.WriteFile(path, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := copyTo(t, "bundle:"+path, t.TempDir(), place.Options{})
		t.Run(name, func(t *testing.T) { refused(t, err, c.want) })
	}
}

// TestABundleAppearsWholeOrNotAtAll copies a release of which a file is missing.
func TestABundleAppearsWholeOrNotAtAll(t *testing.T) {
	dir := signed(t)
	if err := os.Remove(filepath.Join(dir, folder.BlobName(blobs(t, dir)[3].Digest))); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if _, err := copyTo(t, dir, "bundle:"+filepath.Join(to, "release.tar"), place.Options{}); err == nil {
		t.Error("a file that is not there was copied")
	}
	left, err := os.ReadDir(to)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// TestARegistryNeverSeesAPart pushes a release of which a file is broken: the tag does not move.
func TestARegistryNeverSeesAPart(t *testing.T) {
	dir := signed(t)
	at := "oci:" + library(t, false) + "/guests"
	mustCopy(t, dir, at)
	broken, _ := releasetest.Release(t, "2.0.0", releasetest.Guest{Mark: "2"})
	b := blobs(t, broken)[2]
	if err := os.WriteFile(filepath.Join(broken, folder.BlobName(b.Digest)), make([]byte, b.Size), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := copyTo(t, broken, at, place.Options{}); err == nil {
		t.Error("it was pushed")
	}
	same(t, dir, at)
}

func FuzzBundle(f *testing.F) {
	dir := signed(f)
	path := filepath.Join(f.TempDir(), "good.tar")
	mustCopy(f, dir, "bundle:"+path)
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:1024]) // it ends in the first file
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "b.tar")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := place.Open(t.Context(), "bundle:"+path, registry.Access{})
		if err != nil {
			return
		}
		defer s.Close()
		if _, err := s.Index(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestTheFormOfARegistryIsJSON keeps what others read in the form that they know.
func TestTheFormOfARegistryIsJSON(t *testing.T) {
	dir := signed(t)
	host := library(t, false)
	mustCopy(t, dir, "oci:"+host+"/guests:stable")
	resp, err := http.Get("http://" + host + "/v2/guests/manifests/stable")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var x v1.Index
	if err := json.NewDecoder(resp.Body).Decode(&x); err != nil || len(x.Manifests) != 3 ||
		x.Manifests[1].Platform.Architecture != "arm64" || x.Manifests[2].Platform.Architecture != "amd64" {
		t.Errorf("%+v, %v", x, err)
	}
}
