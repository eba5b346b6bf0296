package builder

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
)

// What has been put into an output folder is remembered by what the host's file system says of it, so that an unchanged file of hundreds of
// megabytes is not read again at every build. Whoever writes to a file moves its change time, which no program can set back. It is only about
// whether to copy again: boot and verify read every byte.

// placedFile is where the store remembers what lies at a path.
func (g *Guest) placedFile(path string) (string, error) {
	abs, err := filepath.Abs(path)
	return filepath.Join(g.c.Store.Dir(), "placed", digest.Of([]byte(abs)).Hex()), err
}

// isPlaced says whether path still is what rememberPlaced saw there, with this digest.
func (g *Guest) isPlaced(path string, d digest.Digest) bool {
	file, err := g.placedFile(path)
	if err != nil {
		return false
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	now, err := store.Stamp(path)
	return err == nil && string(data) == string(d)+" "+now+"\n"
}

// rememberPlaced notes what was put at path. That it cannot costs time at the next build, nothing else.
func (g *Guest) rememberPlaced(path string, d digest.Digest) {
	file, err := g.placedFile(path)
	if err != nil {
		return
	}
	now, err := store.Stamp(path)
	if err == nil && os.MkdirAll(filepath.Dir(file), 0o755) == nil {
		_ = atomicfile.Write(file, []byte(strings.Join([]string{string(d), now}, " ")+"\n"), 0o644)
	}
}
