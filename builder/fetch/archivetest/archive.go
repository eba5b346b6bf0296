// Package archivetest serves a small archive of Debian packages on loopback, signed with a key of its own. The packages
// are real .deb files that dpkg-deb reads.
package archivetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Package is a package to put into an archive. Suite, Name and Version must be set.
type Package struct {
	Suite, Component string // the component is main where it is empty
	Name, Version    string
	Arch             string            // default amd64
	Control          string            // further fields, such as "Depends: libc6\n"
	Files            map[string]string // what it installs, by absolute path
}

// Archive is a running archive. Its methods may be called while it serves.
type Archive struct {
	URL     string // the archive's address, which ends in /debian; security suites are served beside it
	Keyring string // the file of the key that signs it, armoured
	Date    time.Time

	key *openpgp.Entity

	mu     sync.Mutex
	list   []Package
	debs   map[string][]byte
	flags  map[string]string // of suites, further fields of their release files
	served map[string]int    // how often each path was asked for
}

// New serves an empty archive until the test ends.
func New(t testing.TB) *Archive {
	t.Helper()
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	key, err := openpgp.NewEntity("archive", "", "archive@example.org",
		&packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: func() time.Time { return made }})
	if err != nil {
		t.Fatal(err)
	}
	a := &Archive{key: key, Date: made.AddDate(0, 1, 0), debs: map[string][]byte{}, flags: map[string]string{},
		served: map[string]int{}}
	a.Keyring = filepath.Join(t.TempDir(), "archive.asc")
	if err := os.WriteFile(a.Keyring, a.Key(t), 0o644); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.URL = s.URL + "/debian"
	return a
}

// Key is the key that signs the archive, armoured.
func (a *Archive) Key(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err == nil {
		err = a.key.Serialize(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Add puts packages into the archive.
func (a *Archive) Add(t testing.TB, list ...Package) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range list {
		a.list = append(a.list, p)
		a.debs[p.filename()] = Deb(t, p)
	}
}

// Remove takes a version out of the archive, its file included.
func (a *Archive) Remove(name, version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = slices.DeleteFunc(a.list, func(p Package) bool {
		gone := p.Name == name && p.Version == version
		if gone {
			delete(a.debs, p.filename())
		}
		return gone
	})
}

// Flag adds fields to a suite's release file, such as "NotAutomatic: yes\n".
func (a *Archive) Flag(suite, fields string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flags[suite] += fields
}

func (p Package) component() string {
	if p.Component == "" {
		return "main"
	}
	return p.Component
}

func (p Package) arch() string {
	if p.Arch == "" {
		return "amd64"
	}
	return p.Arch
}

func isSecurity(suite string) bool { return strings.HasSuffix(suite, "-security") }

func (p Package) filename() string {
	pool := "pool"
	if isSecurity(p.Suite) {
		pool = "pool/updates"
	}
	return path.Join(pool, p.component(), p.Name, fmt.Sprintf("%s_%s_%s.deb", p.Name, p.Version, p.arch()))
}

func (p Package) stanza() string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Somebody "+
		"<somebody@example.org>\nDescription: %[1]s for tests\n%[4]s",
		p.Name, p.Version, p.arch(), p.Control)
}

// Deb is a package as a .deb file. deb(5).
func Deb(t testing.TB, p Package) []byte {
	t.Helper()
	data := []file{{"./", "", true}}
	for _, name := range sorted(p.Files) {
		dir := ""
		for _, d := range strings.Split(strings.Trim(path.Dir(name), "/"), "/") {
			dir = path.Join(dir, d)
			f := file{"./" + dir + "/", "", true}
			if !slices.Contains(data, f) {
				data = append(data, f)
			}
		}
		data = append(data, file{"." + name, p.Files[name], false})
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{
		{"debian-binary", []byte("2.0\n")},
		{"control.tar", tarOf(t, []file{{"./", "", true}, {"./control", p.stanza(), false}})},
		{"data.tar", tarOf(t, data)},
	} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

type file struct {
	name, text string
	dir        bool
}

func tarOf(t testing.TB, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.text)),
			Format: tar.FormatGNU}
		if f.dir {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sorted(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// ServeHTTP implements http.Handler.
func (a *Archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.served[r.URL.Path]++
	below, security := strings.CutPrefix(r.URL.Path, "/debian-security/")
	if !security {
		var ok bool
		if below, ok = strings.CutPrefix(r.URL.Path, "/debian/"); !ok {
			http.NotFound(w, r)
			return
		}
	}
	if data, ok := a.debs[below]; ok && security == strings.HasPrefix(below, "pool/updates/") {
		_, _ = w.Write(data)
		return
	}
	suite, rest, ok := strings.Cut(strings.TrimPrefix(below, "dists/"), "/")
	if !ok || !strings.HasPrefix(below, "dists/") || isSecurity(suite) != security {
		http.NotFound(w, r)
		return
	}
	lists := a.lists(suite)
	if rest == "InRelease" && len(lists) > 0 {
		_, _ = w.Write(a.inRelease(suite, lists))
		return
	}
	if data, ok := lists[rest]; ok {
		_, _ = w.Write([]byte(data))
		return
	}
	http.NotFound(w, r)
}

// lists are a suite's lists of packages, by their paths below the suite's folder.
func (a *Archive) lists(suite string) map[string]string {
	out := map[string]string{}
	for _, p := range a.list {
		if p.Suite != suite {
			continue
		}
		deb := a.debs[p.filename()]
		out[p.component()+"/binary-amd64/Packages"] += fmt.Sprintf("%sFilename: %s\nSize: %d\nSHA256: %x\n\n",
			p.stanza(), p.filename(), len(deb), sha256.Sum256(deb))
	}
	return out
}

func (a *Archive) inRelease(suite string, lists map[string]string) []byte {
	var text strings.Builder
	fmt.Fprintf(&text, "Origin: Test\nSuite: %s\nCodename: %[1]s\nDate: %[2]s\n%[3]sSHA256:\n", suite,
		a.Date.Format("Mon, 02 Jan 2006 15:04:05 MST"), a.flags[suite])
	for _, name := range sorted(lists) {
		fmt.Fprintf(&text, " %x %d %s\n", sha256.Sum256([]byte(lists[name])), len(lists[name]), name)
	}
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, a.key.PrivateKey, &packet.Config{Time: func() time.Time { return a.Date }})
	if err == nil {
		_, err = w.Write([]byte(text.String()))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // the key was made for this
	}
	return b.Bytes()
}
