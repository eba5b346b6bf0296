// Package initrd makes the initial RAM disk of a guest: one static init, the folders and device nodes it starts with, a
// few files, and, when asked for, a set of shell commands.
//
// In comes a Request; out goes one file, whose bytes depend on nothing that Request.Inputs does not list. The package
// does not know what the init does, and takes no file but those it is told of.
package initrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/initrd/cpio"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/klauspost/compress/zstd"
)

// revision changes whenever the same Request would give other bytes than before.
const revision = "1"

// Name is the file that Build leaves in Request.OutDir.
const Name = "initrd.img"

// Compression is how the archive is packed.
type Compression string

// The kinds of compression. The kernel needs CONFIG_RD_ZSTD for zstandard.
const (
	none      Compression = manifest.Uncompressed
	zstandard Compression = manifest.Zstd
)

// Kind is what a File is. The zero value is a regular file.
type Kind string

// The kinds of files.
const (
	Regular  Kind = ""
	Dir      Kind = "dir"
	Symlink  Kind = "symlink"
	HardLink Kind = "hardlink"
	Char     Kind = "char"
	Block    Kind = "block"
	FIFO     Kind = "fifo"
)

// File is one file of the initrd.
type File struct {
	Path string // in the guest: absolute and clean
	Kind Kind

	Source string        // Regular: the file on this machine that it is a copy of
	Digest digest.Digest // Regular: of Source, checked when read; empty to take Source as it is
	Data   []byte        // Regular without Source: the bytes

	Target       string // Symlink: its text; HardLink: the guest path of the file that it is another name of
	Major, Minor uint32 // Char, Block

	// Mode is permissions with set-uid, set-gid and sticky bits. Nil means 0755 for a folder, 0777 for a symbolic link,
	// 0600 for a device or FIFO, 0644 for the rest. A hard link has those of its target.
	Mode     *uint32
	UID, GID uint32
}

// Agent is the init.
type Agent struct {
	Path   string        // on this machine
	Digest digest.Digest // needed
}

// Request is what to build. Arch, Agent, OutDir are needed, and WorkDir with URoot.
type Request struct {
	Arch  arch.Arch
	Agent Agent
	// Files are added to, or take the place of, the folders and devices that every initrd has. Missing parents are
	// made, mode 0755.
	Files []File
	// URoot lists commands of u-root to build, such as "gosh" and "ls", and put under /bin. They need Go, and
	// FetchURoot before.
	URoot       []string
	Go          Go
	Time        int64       // seconds since 1970, of every file
	Compression Compression // empty means None

	OutDir   string // where Name is written
	WorkDir  string // for what u-root needs while it builds; its content may be kept or lost
	Progress progress.Func
}

// Result is what Build made.
type Result struct {
	Path     string // OutDir/Name
	Digest   digest.Digest
	Size     int64 // bytes
	Unpacked int64 // bytes of the archive before compression, which is what the guest's memory has to hold for a moment
	Files    int
}

// Inputs lists everything that decides the bytes. It reads the files that have no digest yet.
func (r Request) Inputs() ([]artifact.Input, error) {
	files, err := r.plan()
	if err != nil {
		return nil, err
	}
	in := []artifact.Input{
		{Name: "initrd revision", Value: revision},
		{Name: "architecture", Value: r.Arch.Name},
		{Name: "time", Value: fmt.Sprint(r.Time)},
		{Name: "compression", Value: string(r.compression())},
	}
	for _, f := range files {
		what, err := f.describe()
		if err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		in = append(in, artifact.Input{Name: "file /" + f.header.Name, Value: what})
	}
	if len(r.URoot) > 0 {
		u, err := r.uroot().Inputs()
		if err != nil {
			return nil, err
		}
		in = append(in, u...)
	}
	return in, nil
}

func (r Request) uroot() URoot {
	return URoot{Arch: r.Arch, Commands: r.URoot, Go: r.Go, WorkDir: r.WorkDir}
}

// describe tells everything that decides the bytes of an entry, apart from its name and time.
func (f planned) describe() (string, error) {
	what := fmt.Sprintf("mode %o owner %d:%d", f.header.Mode, f.header.UID, f.header.GID)
	if f.link != "" {
		what = "hard link to /" + f.link
	}
	switch f.header.Mode & cpio.TypeMask {
	case cpio.TypeChar, cpio.TypeBlock:
		what += fmt.Sprintf(" device %d:%d", f.header.DeviceMajor, f.header.DeviceMinor)
	case cpio.TypeSymlink:
		what += " to " + string(f.data)
	case cpio.TypeRegular:
		d := f.digest // the bytes of hard links are with the last of them
		switch {
		case f.source == "":
			d = digest.Of(f.data)
		case d == "":
			var err error
			if d, _, err = digest.File(f.source); err != nil {
				return "", err
			}
		}
		what += " " + string(d)
	}
	return what, nil
}

func (r Request) compression() Compression {
	if r.Compression == "" {
		return none
	}
	return r.Compression
}

// Build writes the initrd.
func (r Request) Build(ctx context.Context) (*Result, error) {
	if r.Agent.Digest == "" {
		return nil, errors.New("initrd: the agent has no digest")
	}
	if len(r.URoot) > 0 {
		r.Progress.Send(progress.Event{Step: "initrd", Kind: progress.Update, Message: "build u-root commands"})
		files, err := r.uroot().Build(ctx)
		if err != nil {
			return nil, err
		}
		r.Files = append(append([]File(nil), r.Files...), files...)
	}
	files, err := r.plan()
	if err != nil {
		return nil, err
	}
	r.Progress.Send(progress.Event{Step: "initrd", Kind: progress.Update, Message: "write", Total: int64(len(files)),
		Unit: "files"})
	res := &Result{Path: filepath.Join(r.OutDir, Name), Files: len(files)}
	temporary, err := os.CreateTemp(r.OutDir, "."+Name+"-*")
	if err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	defer os.Remove(temporary.Name()) // gone under that name when all went well
	sum := digest.New()
	if err := r.write(ctx, io.MultiWriter(temporary, sum), files, res); err != nil {
		return nil, errors.Join(fmt.Errorf("initrd: %w", err), temporary.Close())
	}
	st, err := temporary.Stat()
	if err == nil {
		err = errors.Join(temporary.Chmod(0o644), temporary.Sync())
	}
	if err := errors.Join(err, temporary.Close()); err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	if err := os.Rename(temporary.Name(), res.Path); err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	res.Size, res.Digest = st.Size(), sum.Digest()
	return res, nil
}

// write packs files into w.
func (r Request) write(ctx context.Context, w io.Writer, files []planned, res *Result) error {
	packed := w
	end := func() error { return nil }
	if r.compression() == zstandard {
		// One goroutine and fixed settings: the same bytes on every machine, for one version of the library (go.mod
		// pins it). The window bounds the memory the guest needs to unpack. No checksum: the host checks the digest of
		// the whole file before it boots.
		z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstdLevel), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(false))
		if err != nil {
			return err
		}
		packed, end = z, z.Close
	}
	count := &counter{w: packed}
	archive := cpio.NewWriter(count)
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeFile(archive, f); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	res.Unpacked = count.n
	return end()
}

const (
	zstdLevel  = zstd.SpeedBestCompression
	zstdWindow = 1 << 20 // bytes
)

func writeFile(w *cpio.Writer, f planned) error {
	if f.source == "" {
		if err := w.Next(f.header); err != nil {
			return err
		}
		_, err := w.Write(f.data)
		return err
	}
	in, err := regular.Open(f.source)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.source)
	}
	f.header.Size = st.Size()
	if err := w.Next(f.header); err != nil {
		return err
	}
	got := digest.New()
	if _, err := io.Copy(io.MultiWriter(w, got), in); err != nil {
		return fmt.Errorf("copy %s: %w", f.source, err)
	}
	if d := got.Digest(); f.digest != "" && d != f.digest {
		return &digest.Mismatch{Name: f.source, Want: f.digest, Got: d}
	}
	return nil
}

// counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
