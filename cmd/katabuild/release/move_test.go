package release

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// TestAPullMakesDisksOfWhatIsHere pulls a newer release into a folder with an older one, into an empty folder where an
// older one is installed, and into one beside a disk that the user names.
func TestAPullMakesDisksOfWhatIsHere(t *testing.T) {
	r := rand.NewChaCha8([32]byte{3})
	common := make([]byte, 3<<20)
	_, _ = r.Read(common) // which never fails
	old, fresh := bytes.Clone(common), append([]byte("some bytes more"), common...)
	var out bytes.Buffer
	h := host(t, &out)
	before := version(t, h, "1.4.0", releasetest.Guest{Disk: true, Image: old})
	after := version(t, h, "1.5.0", releasetest.Guest{Disk: true, Image: fresh})
	var sent atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.FileServer(http.Dir(after)).ServeHTTP(&sender{w, &sent}, r)
	}))
	t.Cleanup(s.Close)
	installed := t.TempDir()
	guest := filepath.Join(installed, "1.4.0/guests/disk")
	if err := os.MkdirAll(guest, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(guest, "image.img"), old, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir, installed string
		args           []string
		most           int64 // bytes
	}{
		"an older release in the folder": {dir: before, most: 100_000},
		"an installed one":               {dir: filepath.Join(t.TempDir(), "a"), installed: installed, most: 100_000},
		"a folder that is named": {dir: filepath.Join(t.TempDir(), "b"), args: []string{"--seed", guest},
			most: 100_000},
		"nothing": {dir: filepath.Join(t.TempDir(), "c"), most: 4 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			h.Installed = c.installed
			sent.Store(0)
			pull := h.pullCmd()
			pull.SetArgs(append([]string{s.URL, c.dir}, c.args...))
			pull.SetOut(io.Discard)
			if err := pull.ExecuteContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := digest.Of(fresh)
			if err := digest.Check(filepath.Join(c.dir, folder.BlobName(want)), want); err != nil {
				t.Error(err)
			}
			if n := sent.Load(); n > c.most || n < 10_000 {
				t.Errorf("%d bytes moved", n)
			}
		})
	}
}

// sender counts the bytes of answers.
type sender struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (s *sender) Write(p []byte) (int, error) {
	s.n.Add(int64(len(p)))
	return s.ResponseWriter.Write(p)
}
