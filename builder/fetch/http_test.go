package fetch

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
)

var (
	keyTime = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	today   = time.Date(2025, 5, 20, 12, 0, 0, 0, time.UTC)
)

func newKey(t testing.TB, name string, lifetime time.Duration) *openpgp.Entity {
	t.Helper()
	k, err := openpgp.NewEntity(name, "", name+"@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA,
		Time: func() time.Time { return keyTime }, KeyLifetimeSecs: uint32(lifetime / time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyFile(t testing.TB, keys ...*openpgp.Entity) string {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	p := filepath.Join(t.TempDir(), "keys.gpg")
	if err := os.WriteFile(p, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t testing.TB, text string, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var private []*packet.PrivateKey
	for _, k := range keys {
		private = append(private, k.PrivateKey)
	}
	var b bytes.Buffer
	w, err := clearsign.EncodeMulti(
		&b, private, &packet.Config{Time: func() time.Time { return keyTime.Add(time.Hour) }})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archive is a small archive: its files by path, and what its release file says.
type archive struct {
	files  map[string][]byte
	asked  []string
	suite  string
	date   time.Time
	until  time.Time
	byHash bool
}

const helloDeb = "not really a package"

func newArchive(t testing.TB) *archive {
	t.Helper()
	packages := fmt.Sprintf("Package: hello\nVersion: 2.0-1+b1\nArchitecture: amd64\nFilename: "+
		"pool/main/h/hello/hello_2.0-1+b1_amd64.deb\nSize: %d\nSHA256: %x\n\n", len(helloDeb),
		sha256.Sum256([]byte(helloDeb)))
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(w, packages)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive{suite: "stable", date: today.Add(-time.Hour), files: map[string][]byte{
		"pool/main/h/hello/hello_2.0-1+b1_amd64.deb":     []byte(helloDeb),
		"dists/trixie/main/binary-amd64/Packages":        []byte(packages),
		"dists/trixie/main/binary-amd64/Packages.xz":     b.Bytes(),
		"dists/trixie/main/binary-amd64/unlisted-so-far": nil,
	}}
}

func (a *archive) release() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Origin: Test\nSuite: %s\nCodename: trixie\nDate: %s\n", a.suite,
		a.date.Format("Mon, 02 Jan 2006 15:04:05 MST"))
	if !a.until.IsZero() {
		fmt.Fprintf(&b, "Valid-Until: %s\n", a.until.Format("Mon, 02 Jan 2006 15:04:05 MST"))
	}
	if a.byHash {
		fmt.Fprintf(&b, "Acquire-By-Hash: yes\n")
	}
	fmt.Fprintf(&b, "MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 x\nSHA256:\n")
	for _, ext := range []string{"", ".xz"} {
		name := "main/binary-amd64/Packages" + ext
		data := a.files["dists/trixie/"+name]
		fmt.Fprintf(&b, " %x %8d %s\n", sha256.Sum256(data), len(data), name)
	}
	return b.String()
}

func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := strings.TrimPrefix(r.URL.Path, "/debian/")
	a.asked = append(a.asked, p)
	if data, ok := a.files[p]; ok {
		_, _ = w.Write(data)
		return
	}
	http.NotFound(w, r)
}

func (a *archive) serve(t testing.TB, keys ...*openpgp.Entity) *HTTP {
	t.Helper()
	a.files["dists/trixie/InRelease"] = sign(t, a.release(), keys...)
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	return &HTTP{Base: srv.URL + "/debian/", Keyring: keyFile(t, keys...), Dir: t.TempDir(),
		Now: func() time.Time { return today }}
}

func TestAnArchiveIsReadWithoutApt(t *testing.T) {
	key := newKey(t, "archive", 0)
	for _, byHash := range []bool{false, true} {
		a := newArchive(t)
		a.byHash = byHash
		h := a.serve(t, key)
		list := a.files["dists/trixie/main/binary-amd64/Packages.xz"]
		if byHash {
			a.files["dists/trixie/main/binary-amd64/by-hash/SHA256/"+digest.Of(list).Hex()] = list
			delete(a.files, "dists/trixie/main/binary-amd64/Packages.xz")
		}
		found, err := h.Resolve(t.Context(), "trixie", "amd64", "hello")
		if err != nil {
			t.Fatal(err)
		}
		want := Found{Digest: digest.Of([]byte(helloDeb)), Size: int64(len(helloDeb)), Date: a.date,
			Package: lock.Package{Suite: "trixie", Name: "hello", Version: "2.0-1+b1", Arch: "amd64",
				Filename: "pool/main/h/hello/hello_2.0-1+b1_amd64.deb"}}
		if *found != want {
			t.Errorf("got %+v, want %+v", *found, want)
		}
		a.asked = nil
		if _, err := h.Resolve(t.Context(), "trixie", "amd64", "nothing"); err == nil ||
			!strings.Contains(err.Error(), "there is none for amd64") {
			t.Errorf("got %v", err)
		}
		if got := strings.Join(a.asked, " "); got != "dists/trixie/InRelease" {
			t.Errorf("a list that is there was fetched again: %s", got)
		}
		if _, _, err := h.Index(t.Context(), Section{Suite: "trixie"}, "s390x"); err == nil ||
			!strings.Contains(err.Error(), "no packages for s390x") {
			t.Errorf("got %v", err)
		}
		f := fetcher(t)
		f.Apt = h
		in := lock.Input{Name: "x", Kind: lock.Debian, Digest: found.Digest, Size: found.Size, Package: &found.Package}
		if err := f.Bring(t.Context(), in, nil); err != nil || !f.Store.Has(found.Digest) {
			t.Error(err)
		}
	}
}

func TestFalseArchivesAreRefused(t *testing.T) {
	good, other, expired := newKey(t, "good", 0), newKey(t, "other", 0), newKey(t, "expired", 24*time.Hour)
	const lists = "dists/trixie/main/binary-amd64/Packages"
	for name, c := range map[string]struct {
		change func(a *archive, h *HTTP)
		want   string
		err    error
	}{
		"another key": {func(a *archive, h *HTTP) { h.Keyring = keyFile(t, other) }, "no good signature", nil},
		"no keyring":  {func(a *archive, h *HTTP) { h.Keyring += ".gone" }, "", os.ErrNotExist},
		"a key that ran out": {func(a *archive, h *HTTP) { a.resign(t, expired); h.Keyring = keyFile(t, expired) },
			"no good signature", nil},
		"not signed": {func(a *archive, h *HTTP) { a.files["dists/trixie/InRelease"] = []byte(a.release()) },
			"not signed", nil},
		"an altered text": {func(a *archive, h *HTTP) { a.alter("dists/trixie/InRelease", "trixie", "sixtie") },
			"no good signature", nil},
		"text before": {func(a *archive, h *HTTP) {
			a.alter("dists/trixie/InRelease", "-----BEGIN PGP SIGNED", "Suite: x\n-----BEGIN PGP SIGNED")
		}, "not signed", nil},
		"text behind": {func(a *archive, h *HTTP) {
			a.files["dists/trixie/InRelease"] = append(a.files["dists/trixie/InRelease"], "\nSuite: x\n"...)
		}, "nothing else", nil},
		"half of it": {func(a *archive, h *HTTP) { a.cut("dists/trixie/InRelease") }, "", nil},
		"another suite": {func(a *archive, h *HTTP) {
			a.files["dists/sid/InRelease"] = a.files["dists/trixie/InRelease"]
		}, "it is of stable, trixie", nil},
		"no longer valid": {func(a *archive, h *HTTP) { a.until = today.Add(-time.Minute); a.resign(t, good) },
			"since 2025-05-20T11:59:00Z", errExpired},
		"from the future": {func(a *archive, h *HTTP) { a.date = today.Add(100 * time.Hour); a.resign(t, good) },
			"yet to come", nil},
		"altered lists":  {func(a *archive, h *HTTP) { a.files[lists+".xz"][30] ^= 1 }, "wrong digest", nil},
		"half the lists": {func(a *archive, h *HTTP) { a.cut(lists + ".xz") }, "wrong digest", nil},
		"longer lists": {func(a *archive, h *HTTP) { a.files[lists+".xz"] = append(a.files[lists+".xz"], 0) },
			"more than", nil},
		"other lists unpacked": {func(a *archive, h *HTTP) { a.alter(lists, "hello", "jello"); a.resign(t, good) },
			"wrong digest", nil},
		"shorter unpacked": {func(a *archive, h *HTTP) { a.cut(lists); a.resign(t, good) },
			"bytes that were signed", nil},
		"no lists": {func(a *archive, h *HTTP) { delete(a.files, lists); delete(a.files, lists+".xz") },
			"", errNotFound},
		"an address of a file": {func(a *archive, h *HTTP) { h.Base = "file:///debian" }, "want http:// or https://",
			nil},
		"nobody there": {func(a *archive, h *HTTP) { h.Base = "http://127.0.0.1:1/" }, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArchive(t)
			h := a.serve(t, good)
			suite := "trixie"
			if name == "another suite" {
				suite = "sid"
			}
			c.change(a, h)
			_, err := h.Resolve(t.Context(), suite, "amd64", "hello")
			if err == nil || !strings.Contains(err.Error(), c.want) || c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("got %v, want %s, %v", err, c.want, c.err)
			}
		})
	}
	h := newArchive(t).serve(t, good)
	for _, suite := range []string{"", "..", "a/../b", "../x", "a b"} {
		if _, _, err := h.Index(t.Context(), Section{Suite: suite}, "amd64"); err == nil ||
			!strings.Contains(err.Error(), "no name of a suite") {
			t.Errorf("suite %q: %v", suite, err)
		}
	}
}

func (a *archive) resign(t testing.TB, key *openpgp.Entity) {
	a.files["dists/trixie/InRelease"] = sign(t, a.release(), key)
}

func (a *archive) alter(file, from, to string) {
	a.files[file] = bytes.Replace(a.files[file], []byte(from), []byte(to), 1)
}

func (a *archive) cut(file string) { a.files[file] = a.files[file][:len(a.files[file])/2] }

func TestAnOlderArchiveIsRefused(t *testing.T) {
	key := newKey(t, "archive", 0)
	a := newArchive(t)
	h := a.serve(t, key)
	for _, c := range []struct {
		name string
		by   time.Duration
		err  error
	}{{"the first", 0, nil}, {"the same again", 0, nil}, {"a newer one", time.Minute, nil},
		{"an older one", -2 * time.Minute, errOlder}, {"again", 0, errOlder}, {"the newest", 2 * time.Minute, nil}} {
		a.date = a.date.Add(c.by)
		a.resign(t, key)
		if _, err := h.Resolve(t.Context(), "trixie", "amd64", "hello"); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Debian signs with its old and its new key: one that we know and that is good is enough.
func TestOneGoodSignatureOfSeveralIsEnough(t *testing.T) {
	good, unknown, expired := newKey(t, "good", 0), newKey(t, "unknown", 0), newKey(t, "expired", 24*time.Hour)
	a := newArchive(t)
	h := a.serve(t, unknown, expired, good)
	h.Keyring = keyFile(t, expired, good)
	if _, err := h.Resolve(t.Context(), "trixie", "amd64", "hello"); err != nil {
		t.Error(err)
	}
	h.Keyring = keyFile(t, expired)
	if _, err := h.Resolve(t.Context(), "trixie", "amd64", "hello"); err == nil {
		t.Error("a key that ran out is enough")
	}
}

func TestAPackageThatIsGoneComesFromTheSnapshot(t *testing.T) {
	a := newArchive(t)
	f := fetcher(t)
	f.Apt = a.serve(t, newKey(t, "archive", 0))
	p := lock.Package{Suite: "trixie", Name: "hello", Version: "1.0-1", Arch: "amd64",
		Filename: "pool/main/h/hello/hello_1.0-1_amd64.deb"}
	in := lock.Input{Name: "x", Kind: lock.Debian, Digest: digest.Of([]byte("old")), Size: 3, Package: &p}
	if err := f.Bring(t.Context(), in, nil); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
	old := []byte("old")
	asked := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked += r.URL.Path + "\n"
		if strings.Contains(r.URL.Path, "20250520T120000Z") {
			_, _ = w.Write(old)
			return
		}
		http.NotFound(w, r)
	}))
	defer srv.Close()
	f.Snapshot, f.SnapshotTime = srv.URL, today
	old[0] = 'O'
	var m *digest.Mismatch
	if err := f.Bring(t.Context(), in, nil); !errors.Is(err, ErrGone) || !errors.As(err, &m) {
		t.Errorf("another package from the snapshot: %v", err)
	}
	old[0] = 'o'
	asked = ""
	if err := f.Bring(t.Context(), in, nil); err != nil || !f.Store.Has(in.Digest) {
		t.Error(err)
	}
	if want := "/archive/debian/20250521T120000Z/pool/main/h/hello/hello_1.0-1_amd64.deb\n/archive/debian/" +
		"20250520T120000Z/pool/main/h/hello/hello_1.0-1_amd64.deb\n"; asked != want {
		t.Errorf("asked for\n%s", asked)
	}
}

func TestRedirectsLeadToHTTPOnly(t *testing.T) {
	to := ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" {
			_, _ = io.WriteString(w, "end")
			return
		}
		http.Redirect(w, r, to, http.StatusFound)
	}))
	defer srv.Close()
	tls := httptest.NewTLSServer(http.RedirectHandler(srv.URL+"/end", http.StatusFound))
	defer tls.Close()
	for target, ok := range map[string]bool{srv.URL + "/end": true, "file:///etc/passwd": false,
		"ftp://127.0.0.1/x": false, srv.URL + "/again": false} {
		to = target
		body, err := (&HTTP{Base: srv.URL}).get(t.Context(), "trixie", "begin")
		if (err == nil) != ok {
			t.Errorf("%s: %v", target, err)
		}
		if err == nil {
			body.Close()
		}
	}
	if _, err := (&HTTP{Base: tls.URL, Client: tls.Client()}).get(t.Context(), "trixie", "begin"); err == nil ||
		!strings.Contains(err.Error(), "redirect from https to http") {
		t.Errorf("got %v", err)
	}
}

// FuzzRelease: a release file that a key signed may still hold anything.
func FuzzRelease(f *testing.F) {
	a := newArchive(f)
	f.Add([]byte(a.release()))
	f.Add([]byte("Date: Sat, 21 Nov 2026 09:15:44 UTC\nSHA256:\n x -1 y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if err != nil {
			return
		}
		for name, l := range r.files {
			if l.size < 0 || l.digest == "" {
				t.Errorf("%q: %+v", name, l)
			}
		}
	})
}

// FuzzClear: no bytes that we did not sign pass for signed ones.
func FuzzClear(f *testing.F) {
	key := newKey(f, "archive", 0)
	keys, err := os.ReadFile(keyFile(f, key))
	if err != nil {
		f.Fatal(err)
	}
	const text = "Suite: stable\n- dash\n"
	good := sign(f, text, key)
	f.Add(good)
	// blanks at the end of a line are not signed: RFC 9580 section 7.2
	f.Add(bytes.Replace(good, []byte("stable"), []byte("stable "), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := verifyClear(data, keys, today)
		if err != nil {
			return
		}
		var trimmed []string
		for line := range strings.SplitSeq(string(got), "\n") {
			trimmed = append(trimmed, strings.TrimRight(line, " \t\r"))
		}
		if strings.TrimRight(strings.Join(trimmed, "\n"), "\n") != strings.TrimRight(text, "\n") {
			t.Errorf("signed: %q", got)
		}
	})
}
