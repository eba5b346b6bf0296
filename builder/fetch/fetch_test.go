package fetch

import (
	"context"
	"errors"
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
	return &Fetcher{Store: s, Base: t.TempDir(), Arch: "amd64", Apt: &Apt{Dir: t.TempDir()}}
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
		{"other digest", "/file", "wrong digest: want " + string(digest.Of(nil)) + ", got " + string(d), digest.Of(nil), 5},
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
	err := f.Bring(context.Background(), lock.Input{Name: "file motd", Kind: lock.Local, Where: "motd", Digest: digest.Of([]byte("hello"))}, nil)
	var m *digest.Mismatch
	if !errors.As(err, &m) || m.Got != digest.Of([]byte("changed")) {
		t.Errorf("got %v", err)
	}
}

func TestTheArchiveIsPickedFromTheHostsSources(t *testing.T) {
	got := pickArchive("DEP-11 http://a/debian/ main\nPackages http://s/debian-security/ main\nPackages http://x/debian/ contrib\nPackages http://m/debian/ main\n")
	if got != "http://m/debian/" {
		t.Errorf("got %q", got)
	}
	if got := pickArchive("Packages http://archive/ubuntu/ main\n"); got != "" {
		t.Errorf("got %q from a host without Debian's archive", got)
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
