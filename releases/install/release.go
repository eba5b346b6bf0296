package install

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/regular"
)

// The programs of a release, in bin.
const (
	shimProgram    = "containerd-shim-kata-v2"
	runtimeProgram = "kata-runtime"
)

// Source is what a release is made of.
type Source struct {
	Version  string   // names the release; empty is named after its content
	Programs string   // folder of the shim and of kata-runtime
	Guests   []string // folders that katabuild made, each with a manifest
}

// file is a file of a release.
type file struct {
	Path       string        `json:"path"` // from the release's folder
	Digest     digest.Digest `json:"digest"`
	Size       int64         `json:"size"` // bytes
	Executable bool          `json:"executable,omitempty"`

	from string // where it is copied from
}

// contents is files.json: every file of a release, sorted by path, and its guests.
type contents struct {
	Version int      `json:"version"`
	Arch    string   `json:"arch"`   // of the programs
	Guests  []string `json:"guests"` // folders below guests; the first is the default
	Files   []file   `json:"files"`
}

const contentsVersion = 1

// versionWord is the form of a release's name, which is a folder.
var versionWord = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,63}$`)

// load reads what a source has: every guest's files are compared with its manifest.
func (s Source) load() (id string, c contents, err error) {
	c.Version = contentsVersion
	for _, name := range []string{shimProgram, runtimeProgram} {
		p := filepath.Join(s.Programs, name)
		d, n, err := digest.File(p)
		if errors.Is(err, fs.ErrNotExist) {
			return "", c, fmt.Errorf("no program %s in %s: name the folder that has it by --programs (make build "+
				"leaves them in bin)", name, s.Programs)
		}
		if err != nil {
			return "", c, err
		}
		c.Files = append(c.Files, file{Path: "bin/" + name, Digest: d, Size: n, Executable: true, from: p})
	}
	if c.Arch, err = archOf(filepath.Join(s.Programs, shimProgram)); err != nil {
		return "", c, err
	}
	if len(s.Guests) == 0 {
		return "", c, errors.New("no guest: name a folder that katabuild made, such as out/default")
	}
	for _, dir := range s.Guests {
		if err := c.addGuest(dir); err != nil {
			return "", c, fmt.Errorf("guest %s: %w", dir, err)
		}
	}
	slices.SortFunc(c.Files, func(a, b file) int { return cmp.Compare(a.Path, b.Path) })
	data, err := document.Encode(c)
	if err != nil {
		return "", c, err
	}
	if s.Version == "" {
		return "local-" + digest.Of(data).Hex()[:12], c, nil
	}
	if !versionWord.MatchString(s.Version) {
		return "", c, fmt.Errorf("version %q: want 1 to 64 letters, digits, and any of . + ~ _ - behind the first",
			s.Version)
	}
	return s.Version, c, nil
}

// archOf is the architecture that a Go program was built for.
func archOf(program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	for _, s := range info.Settings {
		if s.Key == "GOARCH" {
			a, err := arch.FromGo(s.Value)
			if err != nil {
				return "", fmt.Errorf("%s: %w", program, err)
			}
			return a.Name, nil
		}
	}
	return "", fmt.Errorf("%s does not say which architecture it is for", program)
}

// addGuest adds the files of a guest.
func (c *contents) addGuest(dir string) error {
	m, _, err := manifest.Read(dir, "")
	if err != nil {
		return err
	}
	name := m.Name
	if m.Arch != c.Arch {
		name += "-" + m.Arch
	}
	if slices.Contains(c.Guests, name) {
		return fmt.Errorf("there is another guest %s", name)
	}
	c.Guests = append(c.Guests, name)
	for _, f := range m.Files() {
		p := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := digest.Check(p, f.Digest); err != nil {
			return err
		}
		c.Files = append(c.Files,
			file{Path: path.Join("guests", name, f.Path), Digest: f.Digest, Size: f.Size, from: p})
	}
	for _, n := range []string{manifest.Name, manifest.SumName} {
		p := filepath.Join(dir, n)
		d, size, err := digest.File(p)
		if err != nil {
			return err
		}
		c.Files = append(c.Files, file{Path: path.Join("guests", name, n), Digest: d, Size: size, from: p})
	}
	return nil
}

// decodeContents reads files.json, strictly.
func decodeContents(data []byte) (c contents, err error) {
	if err := document.Decode("files.json", data, &c); err != nil {
		return c, err
	}
	if c.Version != contentsVersion {
		return c, fmt.Errorf("files.json: version %d, want %d", c.Version, contentsVersion)
	}
	if len(c.Guests) == 0 {
		return c, errors.New("files.json: it names no guest")
	}
	for i, f := range c.Files {
		if !fs.ValidPath(f.Path) || f.Path == "." || i > 0 && c.Files[i-1].Path >= f.Path {
			return c, fmt.Errorf("files.json: %q is no path of a release, or not in its order", f.Path)
		}
	}
	for _, g := range c.Guests {
		if !fs.ValidPath(g) || path.Base(g) != g || g == "." {
			return c, fmt.Errorf("files.json: %q is no guest's name", g)
		}
	}
	return c, nil
}

// put copies a release into the folder, which becomes visible whole or not at all. Progress hears of bytes.
func (h *host) put(dir string, c contents, progress func(int64)) (err error) {
	want, err := document.Encode(c)
	if err != nil {
		return err
	}
	if have, ok, err := h.text(path.Join(dir, contentsName)); err != nil {
		return err
	} else if ok {
		if !bytes.Equal(have, want) {
			return fmt.Errorf("release %s is installed with other files: take another --version", path.Base(dir))
		}
		return nil
	}
	tmp := temporary(dir)
	if err := h.root.RemoveAll(rel(tmp)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.root.RemoveAll(rel(tmp)))
		}
	}()
	if err := h.mkdirs(tmp); err != nil {
		return err
	}
	for _, f := range c.Files {
		if err := h.copy(path.Join(tmp, f.Path), f, progress); err != nil {
			return err
		}
	}
	if err := h.write(path.Join(tmp, contentsName), want); err != nil {
		return err
	}
	// A folder without its list is not a release any more. Files of it that are open stay so.
	old := path.Join(path.Dir(dir), ".katabuild-old-"+path.Base(dir))
	if err := h.root.Rename(rel(dir), rel(old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := h.root.Rename(rel(tmp), rel(dir)); err != nil {
		return err
	}
	return errors.Join(h.root.RemoveAll(rel(old)), h.sync(path.Dir(dir)))
}

// copy copies one file, and compares what it wrote with the digest.
func (h *host) copy(to string, f file, progress func(int64)) (err error) {
	in, err := regular.Open(f.from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := h.mkdirs(path.Dir(to)); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if f.Executable {
		mode = 0o755
	}
	out, err := h.root.OpenFile(rel(to), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	sum := digest.New()
	_, err = io.Copy(io.MultiWriter(out, sum, counter(progress)), in)
	if err == nil {
		err = out.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if got := sum.Digest(); got != f.Digest {
		return fmt.Errorf("%s changed while it was copied: %s, want %s", f.from, got.Short(), f.Digest.Short())
	}
	return nil
}

// counter tells how many bytes go by.
type counter func(int64)

func (c counter) Write(p []byte) (int, error) {
	if c != nil {
		c(int64(len(p)))
	}
	return len(p), nil
}
