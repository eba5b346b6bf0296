package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/testenv"
)

func fetcher(t *testing.T) *Fetcher {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &Fetcher{Store: s, Base: t.TempDir(), Arch: "amd64", Apt: &Apt{Dir: t.TempDir(), Env: os.Environ()}}
}

func TestDownloadsAreCheckedByDigestAndSize(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/file" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte("hello"))
	}))
	defer srv.Close()
	d := digest.Of([]byte("hello"))
	for _, c := range []struct {
		name, path, want string
		digest           digest.Digest
		size             int64
	}{
		{"right", "/file", "", d, 5},
		{"unlocked", "/file", "", "", -1},
		{"other digest", "/file", "wrong digest: want " + string(digest.Of(nil)) + ", got " + string(d),
			digest.Of(nil), 5},
		{"longer than locked", "/file", "more than 4 bytes", d, 4},
		{"not there", "/other", "404 Not Found", d, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := fetcher(t)
			_, _, err := f.Download(context.Background(), srv.URL+c.path, c.digest, c.size, nil)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if f.Store.Has(d) != (c.want == "") {
				t.Error("the store holds what it should not, or lacks what it should hold")
			}
		})
	}
}

func TestAChangedLocalFileIsRefused(t *testing.T) {
	f := fetcher(t)
	if err := os.WriteFile(filepath.Join(f.Base, "motd"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := f.Bring(context.Background(), lock.Input{Name: "file motd", Kind: lock.Local, Where: "motd",
		Digest: digest.Of([]byte("hello"))}, nil)
	var m *digest.Mismatch
	if !errors.As(err, &m) || m.Got != digest.Of([]byte("changed")) {
		t.Errorf("got %v", err)
	}
}

func TestTheArchiveIsPickedFromTheHostsSources(t *testing.T) {
	debianHost := []hostSuite{
		{"https://vendor/apt", "stable"}, {"http://m/debian", "bookworm"}, {"http://m/debian/", "bookworm-updates"},
		{"http://s/debian-security", "bookworm-security"},
	}
	for _, c := range []struct {
		name  string
		host  []hostSuite
		suite string
		want  string
	}{
		{"the suite is there", debianHost, "bookworm", "http://m/debian"},
		{"another suite of the same archive", debianHost, "trixie", "http://m/debian"},
		{"security updates of another suite", debianHost, "trixie-security", "http://s/debian-security"},
		{"security updates beside the archive", debianHost[1:3], "trixie-security", "http://m/debian-security"},
		{"old name of security updates", debianHost, "buster/updates", "http://s/debian-security"},
		{"a mirror under another name", []hostSuite{{"https://r/artifactory/deb-remote", "bookworm"}}, "trixie",
			"https://r/artifactory/deb-remote"},
		{"its security updates under another name", []hostSuite{{"https://r/deb-remote", "bookworm"},
			{"https://r/sec-remote", "bookworm-security"}},
			"trixie-security", "https://r/sec-remote"},
		{"it says not where its security updates are", []hostSuite{{"https://r/deb-remote", "bookworm"}},
			"trixie-security", ""},
		{"a vendor's archive is none", []hostSuite{{"https://vendor/apt", "nodistro"}}, "trixie", ""},
		{"Ubuntu's is none", []hostSuite{{"http://archive/ubuntu", "noble"}, {"http://security/ubuntu",
			"noble-security"}}, "trixie", ""},
		{"Ubuntu's has no security updates of Debian's", []hostSuite{{"http://archive/ubuntu", "noble"},
			{"http://security/ubuntu", "noble-security"}},
			"trixie-security", ""},
		{"the snapshot's", []hostSuite{{"http://snap/archive/debian/20250520T000000Z", "bookworm"}}, "bookworm",
			"http://snap/archive/debian/20250520T000000Z"},
	} {
		if got := pickArchive(c.host, c.suite); strings.TrimRight(got, "/") != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// aptWith sets the host's apt up with sources of its own, without package lists.
func aptWith(t *testing.T, sources string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"lists/partial", "parts", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf("Dir::State::lists \"%s/lists\"; Dir::Etc::sourcelist \"/dev/null\"; Dir::Etc::sourceparts "+
		"\"%[1]s/parts\"; Dir::Cache \"%[1]s/cache\";", dir)
	for name, text := range map[string]string{"apt.conf": conf, "parts/case.sources": sources} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("APT_CONFIG", filepath.Join(dir, "apt.conf"))
}

func TestAHostWithoutPackageListsKnowsItsArchive(t *testing.T) {
	testenv.Require(t, testenv.Tool("apt-get"))
	aptWith(t, "Types: deb\nURIs: http://127.0.0.1:1/debian\nSuites: bookworm\nComponents: main\n")
	if got, err := hostArchive(t.Context(), os.Environ(), "trixie"); err != nil || got != "http://127.0.0.1:1/debian" {
		t.Errorf("got %q, %v", got, err)
	}
	aptWith(t, "Types: deb\nURIs: http://127.0.0.1:1/ubuntu\nSuites: noble\nComponents: main\n")
	var none *NoArchive
	if got, err := hostArchive(t.Context(), os.Environ(), "trixie"); !errors.As(err, &none) || none.Suite != "trixie" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestAptReachesAnotherSuite uses the network of the host's own apt.
func TestAptReachesAnotherSuite(t *testing.T) {
	testenv.Require(t, testenv.Tool("apt-get"), testenv.Asked("KATABUILD_TEST_NETWORK", "test-network"))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	f := fetcher(t)
	found, err := f.Apt.Resolve(ctx, "trixie", "amd64", "hostname")
	if err != nil {
		t.Fatal(err)
	}
	if found.Package.Name != "hostname" || found.Size == 0 || found.Date.IsZero() {
		t.Errorf("found %+v", found)
	}
	in := lock.Input{Name: "x", Kind: lock.Debian, Digest: found.Digest, Size: found.Size, Package: &found.Package}
	if err := f.Bring(ctx, in, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Store.Get(found.Digest); err != nil {
		t.Error(err)
	}
	in.Package.Version, in.Digest = "0.0-1", digest.Of(nil)
	if err := f.Bring(ctx, in, nil); !errors.Is(err, ErrGone) {
		t.Errorf("a version the archive does not have: %v", err)
	}
	if _, err := f.Apt.Resolve(ctx, "trixie", "amd64", "no-such-package-at-all"); err == nil {
		t.Error("an unknown package is found")
	}
}
