package store

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
)

// What has been put into an output folder is remembered by what the host's file system says of it, so that an unchanged
// file of hundreds of megabytes is not read again at every build. Whoever writes to a file moves its change time, which
// no program can set back. It is only about whether to copy again: boot and verify read every byte. The note is signed
// like a record: a forged one would let a changed output pass.

// placedFile is where the store remembers what lies at path, which is absolute.
func (s *Store) placedFile(path string) string {
	return filepath.Join(s.dir, "placed", digest.Of([]byte(path)).Hex())
}

// placedNote is the first line of such a file. A second one holds the writer and the signature.
func placedNote(path string, d digest.Digest, stamp string) string {
	return strings.Join([]string{string(digest.Of([]byte(path))), string(d), stamp}, " ") + "\n"
}

// IsPlaced says whether path still is what Placed saw there, with this digest.
func (s *Store) IsPlaced(path string, d digest.Digest) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	data, err := readSmall(s.placedFile(path))
	if err != nil {
		return false
	}
	stamp, err := stampOf(path)
	if err != nil {
		return false
	}
	note := placedNote(path, d, stamp)
	seal, ok := strings.CutPrefix(string(data), note)
	if !ok {
		return false
	}
	if s.o.Key.private == nil {
		return true
	}
	writer, sig, ok := strings.Cut(strings.TrimSuffix(seal, "\n"), " ")
	w := Writer(writer)
	return ok && s.trusts(w) && w.sealed(placedKind, []byte(note), sig)
}

// Placed notes that the bytes with this digest were put at path.
func (s *Store) Placed(path string, d digest.Digest) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	stamp, err := stampOf(path)
	if err != nil {
		return err
	}
	file := s.placedFile(path)
	if err := os.MkdirAll(filepath.Dir(file), s.dirMode()); err != nil {
		return s.wrap("write to", err)
	}
	note := placedNote(path, d, stamp)
	text := note + string(s.o.Key.Writer()) + " " + s.o.Key.seal(placedKind, []byte(note)) + "\n"
	if err := atomicfile.Write(file, []byte(text), 0o644); err != nil {
		return s.wrap("write to", err)
	}
	return nil
}
