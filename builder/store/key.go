package store

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/atomicfile"
)

// Writer is whoever writes records into stores: the public half of an Ed25519 key, 64 lower-case hexadecimal digits.
type Writer string

// ParseWriter checks the form of a writer.
func ParseWriter(s string) (Writer, error) {
	if b, err := hex.DecodeString(s); err != nil || len(b) != ed25519.PublicKeySize || strings.ToLower(s) != s {
		return "", fmt.Errorf(
			"key of a writer %q: want %d lower-case hexadecimal digits", s, 2*ed25519.PublicKeySize)
	}
	return Writer(s), nil
}

// Signer signs documents of other kinds than the store's, which cannot be taken for each other: the store's begin with
// its name. It is nil for the zero value.
func (k Key) Signer() crypto.Signer {
	if k.private == nil {
		return nil
	}
	return k.private
}

// short is the first 12 digits, for people.
func (w Writer) short() string { return string(w[:min(12, len(w))]) }

// Key signs records. The zero value signs nothing.
type Key struct{ private ed25519.PrivateKey }

// Writer is the public half of the key; empty for the zero value.
func (k Key) Writer() Writer {
	if k.private == nil {
		return ""
	}
	return Writer(hex.EncodeToString(k.private.Public().(ed25519.PublicKey)))
}

// drawKey draws a key.
func drawKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return Key{private}, err
}

// sealPrefix keeps a signature over one kind of bytes from being good for another kind.
func sealPrefix(kind string, data []byte) []byte {
	return append([]byte("katabuild store, layout 1: "+kind+"\n"), data...)
}

// seal signs data of a kind. Without a key it is empty.
func (k Key) seal(kind string, data []byte) string {
	if k.private == nil {
		return ""
	}
	return hex.EncodeToString(ed25519.Sign(k.private, sealPrefix(kind, data)))
}

// sealed says whether seal is the writer's signature over data of this kind.
func (w Writer) sealed(kind string, data []byte, seal string) bool {
	public, err1 := hex.DecodeString(string(w))
	sig, err2 := hex.DecodeString(seal)
	return err1 == nil && err2 == nil && len(public) == ed25519.PublicKeySize &&
		ed25519.Verify(public, sealPrefix(kind, data), sig)
}

// keyFileMax bounds what is read of a key or trust file, in bytes: a key is 65, a trusted writer a line.
const keyFileMax = 64 << 10

// ReadKey reads the key in the file at path, and draws one and writes it there, with its folder, where there is none.
// The file holds the key's seed as 64 hexadecimal digits. It must be this user's and nobody else's to read: whoever has
// it can write records that this user believes.
func ReadKey(path string) (Key, error) {
	text, err := readOwn(path, 0o077)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return Key{}, fmt.Errorf("key of the store's records: %w", err)
		}
		text, err = readOwn(path, 0o077) // another process may have been faster; its key counts
	}
	if err != nil {
		return Key{}, fmt.Errorf("key of the store's records: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(text))
	if err != nil || len(seed) != ed25519.SeedSize {
		return Key{}, fmt.Errorf(
			"key of the store's records: %s does not hold %d hexadecimal digits; remove it, and a new one is made",
			path, 2*ed25519.SeedSize)
	}
	return Key{ed25519.NewKeyFromSeed(seed)}, nil
}

// makeKey writes a new key to path unless there is a file meanwhile.
func makeKey(path string) error {
	k, err := drawKey()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = fmt.Fprintf(f, "%x\n", k.private.Seed())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// CreateTemp makes files of mode 0600. A link appears whole, or fails where another process's key is.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// ReadTrusted reads the writers that a file lists, one a line, with whatever name stands behind. No file lists none.
// Lines that begin with # are comments. The file must be this user's, and nobody else's to write.
func ReadTrusted(path string) ([]Writer, error) {
	text, err := readOwn(path, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trusted writers: %w", err)
	}
	var out []Writer
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		w, err := ParseWriter(f[0])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out, nil
}

// Trust adds a writer to the file at path, with a name for people, which may be empty. One that is listed already stays
// as it is.
func Trust(path string, w Writer, name string) error {
	if strings.ContainsAny(name, "\n\r") {
		return fmt.Errorf("name of a writer %q: want one line", name)
	}
	have, err := ReadTrusted(path)
	if err != nil || slices.Contains(have, w) {
		return err
	}
	text, err := readOwn(path, 0o022)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(text+strings.TrimSpace(string(w)+" "+name)+"\n"), 0o600)
}

// readOwn reads a small regular file that is this user's or root's and has none of the permission bits in deny.
func readOwn(path string, deny fs.FileMode) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	switch {
	case !fi.Mode().IsRegular():
		return "", fmt.Errorf("%s is no regular file", path)
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return "", fmt.Errorf("%s belongs to user %d, not to this one (%d)", path, st.Uid, os.Geteuid())
	case fi.Mode().Perm()&deny != 0:
		return "", fmt.Errorf("%s has mode %04o, which lets other users in; run: chmod %04o %s", path,
			fi.Mode().Perm(), fi.Mode().Perm()&^deny, path)
	case fi.Size() > keyFileMax:
		return "", fmt.Errorf("%s has %d bytes; want at most %d", path, fi.Size(), keyFileMax)
	}
	b := make([]byte, fi.Size())
	n, err := f.ReadAt(b, 0)
	if err != nil && n < len(b) {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return string(b), nil
}
