// Package source turns what holds a kernel's source (Debian's linux-source package, a kernel.org tarball, a local tree)
// into a folder, without running anything, and refuses archives that reach outside of it.
package source

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
)

// The kinds of sources.
const (
	Debian  = "debian"  // a .deb that holds usr/src/linux-source-*.tar.xz
	Tarball = "tarball" // a .tar, .tar.xz, .tar.gz or .tar.zst with one top folder
	Tree    = "tree"    // a folder
)

// Kinds lists them.
func Kinds() []string { return []string{Debian, Tarball, Tree} }

// Source is one kernel source.
type Source struct {
	Kind   string
	Path   string
	Name   string        // what people call it, for errors; the path's last element when empty
	Digest digest.Digest // of the file, or TreeDigest of the folder; checked while it is read
}

// Options of Unpack. The zero value is usable.
type Options struct {
	Time     time.Time               // modification time of everything unpacked
	Progress func(done, total int64) // bytes of the source; may be nil
	Skip     func(name string) bool  // files that are read and not written, by their name in the tree; may be nil
	limit    int64                   // bytes unpacked; 0 stands for maxBytes
}

// maxBytes and maxEntries bound what an archive may unpack to. Linux 6.12 has 1.5 GB in 90,000 entries.
const (
	maxBytes   = 16 << 30
	maxEntries = 1 << 20
)

// Unpack fills the folder dir, which it makes and which must not exist, with the kernel tree: its Makefile ends up
// directly in dir. A *digest.Mismatch says that the source is not the one that was promised; dir then holds what it
// held.
func Unpack(ctx context.Context, s Source, dir string, o Options) error {
	if o.limit == 0 {
		o.limit = maxBytes
	}
	var err error
	switch s.Kind {
	case Debian, Tarball:
		err = unpackFile(ctx, s, dir, o)
	case Tree:
		err = copyTree(ctx, s, dir, o)
	default:
		err = fmt.Errorf("unknown kind of kernel source %q (known: %s)", s.Kind, strings.Join(Kinds(), ", "))
	}
	if err != nil {
		return err
	}
	for _, f := range tops {
		if fi, err := os.Lstat(filepath.Join(dir, f)); err != nil || !fi.Mode().IsRegular() {
			return fmt.Errorf("%s holds no kernel source: no %s at its top", s.name(), f)
		}
	}
	return nil
}

// counter digests and counts what passes through it.
type counter struct {
	ctx      context.Context
	r        io.Reader
	sum      *digest.Writer
	n, total int64
	report   func(done, total int64)
	next     int64
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.sum.Write(p[:n])
	c.n += int64(n)
	if c.report != nil && (c.n >= c.next || err == io.EOF) {
		c.next = c.n + c.total/200
		c.report(c.n, c.total)
	}
	return n, err
}

func unpackFile(ctx context.Context, s Source, dir string, o Options) error {
	f, err := regular.Open(s.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	c := &counter{ctx: ctx, r: f, sum: digest.New(), total: fi.Size(), report: o.Progress}
	in := bufio.NewReaderSize(c, 1<<20)
	if s.Kind == Debian {
		err = debSource(in, dir, o)
	} else {
		err = untar(in, dir, o)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("its end is missing, or it is no such archive: %w", err)
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", s.name(), err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fmt.Errorf("read %s: %w", s.name(), err)
	}
	if got := c.sum.Digest(); got != s.Digest {
		return &digest.Mismatch{Name: s.name(), Want: s.Digest, Got: got}
	}
	return nil
}

// decompress finds out by its first bytes how a stream is compressed, and undoes it on another goroutine, so that
// decompressing and writing files overlap. Whoever called closes the result, whether or not it was read to the end.
func decompress(r *bufio.Reader) (io.ReadCloser, error) {
	magic, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	var plain io.Reader
	switch m := string(magic); {
	case strings.HasPrefix(m, "\xfd7zXZ\x00"):
		plain, err = xz.NewReader(r, xz.DefaultDictMax)
	case strings.HasPrefix(m, "\x1f\x8b"):
		plain, err = gzip.NewReader(r)
	case strings.HasPrefix(m, "\x28\xb5\x2f\xfd"):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1)); err == nil {
			return z.IOReadCloser(), nil
		}
	default:
		return io.NopCloser(r), nil
	}
	if err != nil {
		return nil, err
	}
	return readAhead(plain), nil
}

// readAhead reads r on another goroutine, some blocks ahead.
func readAhead(r io.Reader) io.ReadCloser {
	a := &ahead{blocks: make(chan block, 8), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer close(a.blocks)
		for {
			b := block{data: make([]byte, 256<<10)}
			n, err := io.ReadFull(r, b.data)
			b.data, b.err = b.data[:n], err
			if err == io.ErrUnexpectedEOF && n > 0 {
				// A short block: the reader's own next word says whether the end was meant.
				b.err = nil
				if _, err := r.Read(make([]byte, 1)); err != nil {
					b.err = err
				}
			}
			select {
			case a.blocks <- b:
			case <-a.stop:
				return
			}
			if b.err != nil {
				return
			}
		}
	}()
	return a
}

type block struct {
	data []byte
	err  error
}

type ahead struct {
	blocks chan block
	cur    block
	stop   chan struct{}
	done   chan struct{}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.cur.data) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		b, ok := <-a.blocks
		if !ok {
			return 0, io.EOF
		}
		a.cur = b
	}
	n := copy(p, a.cur.data)
	a.cur.data = a.cur.data[n:]
	return n, nil
}

// Close waits until nobody reads the underlying reader any more.
func (a *ahead) Close() error {
	close(a.stop)
	<-a.done
	return nil
}

// The parts of an ar archive, which a .deb is: a magic line, then members with a header of 60 bytes.
// deb(5); ar.h of the GNU C library.
const (
	arMagic  = "!<arch>\n"
	arHeader = 16 + 12 + 6 + 6 + 8 + 10 + 2 // 60: name, date, uid, gid, mode, size, end
)

// linuxSource is the name of the tarball inside the package.
var linuxSource = regexp.MustCompile(`^(\./)?usr/src/linux-source-[^/]+\.tar(\.xz|\.gz|\.zst)?$`)

// debSource unpacks the tarball inside the data member of a .deb.
func debSource(r *bufio.Reader, dir string, o Options) error {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return errors.New("not a Debian package: no ar archive")
	}
	for {
		head := make([]byte, arHeader)
		if _, err := io.ReadFull(r, head); err == io.EOF {
			return errors.New("the package has no data member")
		} else if err != nil {
			return fmt.Errorf("member header: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
		if err != nil || size < 0 || string(head[58:]) != "`\n" {
			return fmt.Errorf("member %q: malformed header", name)
		}
		if !strings.HasPrefix(name, "data.tar") {
			if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
				return fmt.Errorf("member %s: %w", name, err)
			}
			continue
		}
		data, err := decompress(bufio.NewReaderSize(io.LimitReader(r, size), 1<<20))
		if err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
		defer data.Close()
		tr := tar.NewReader(data)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				return errors.New("the package holds no usr/src/linux-source-*.tar.xz")
			}
			if err != nil {
				return fmt.Errorf("member %s: %w", name, err)
			}
			if h.Typeflag == tar.TypeReg && linuxSource.MatchString(h.Name) {
				if err := untar(bufio.NewReaderSize(tr, 1<<20), dir, o); err != nil {
					return err
				}
				return drain(data, o)
			}
		}
	}
}

// untar unpacks a tarball, compressed or not, whose entries all lie in one top folder, and leaves that folder's
// name out.
func untar(r *bufio.Reader, dir string, o Options) error {
	plain, err := decompress(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	w := newWriter(dir, o)
	tr := tar.NewReader(plain)
	top := ""
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // git archive's note of the commit
		}
		name := path.Clean(h.Name)
		if name == "." {
			continue
		}
		if path.IsAbs(h.Name) || name == ".." || strings.HasPrefix(name, "../") {
			return fmt.Errorf("entry %q lies outside", h.Name)
		}
		first, rest, nested := strings.Cut(name, "/")
		if top == "" {
			top = first
		}
		if first != top {
			return fmt.Errorf("entry %q lies outside of the top folder %q", h.Name, top)
		}
		if !nested {
			if h.Typeflag != tar.TypeDir {
				return fmt.Errorf("entry %q: want one top folder", h.Name)
			}
			rest = "."
		}
		e := entry{name: rest, executable: h.FileInfo().Mode()&0o111 != 0}
		switch h.Typeflag {
		case tar.TypeDir:
			err = w.mkdir(e.name)
		case tar.TypeReg:
			err = w.file(e, tr)
		case tar.TypeSymlink:
			err = w.symlink(e.name, h.Linkname)
		case tar.TypeLink:
			target, ok := strings.CutPrefix(path.Clean(h.Linkname), top+"/")
			if !ok {
				return fmt.Errorf("entry %q: hard link to %q, which lies outside", h.Name, h.Linkname)
			}
			err = w.link(e.name, target)
		default:
			err = fmt.Errorf("neither file, folder nor link (type %q)", h.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if top == "" {
		return errors.New("the archive is empty")
	}
	if err := drain(plain, o); err != nil {
		return err
	}
	return w.finish()
}

// drain reads what follows the end of a tar, so that a compressed stream's own end and checksum are checked.
func drain(r io.Reader, o Options) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, o.limit+1))
	if err == nil && n > o.limit {
		err = fmt.Errorf("more than %d bytes follow the end of the archive", o.limit)
	}
	return err
}

type entry struct {
	name       string // clean, relative, slashes
	executable bool
}

// writer makes files below a fresh folder. No name it is given may pass through a symbolic link, so nothing can
// lead outside.
type writer struct {
	dir     string
	o       Options
	folders map[string]bool // made, and not symbolic links
	order   []string
	taken   map[string]bool // every other name
	skipped map[string]bool // those of taken that were not written
	written int64
	buf     []byte
}

func newWriter(dir string, o Options) *writer {
	return &writer{dir: dir, o: o, folders: map[string]bool{}, taken: map[string]bool{}, skipped: map[string]bool{},
		buf: make([]byte, 256<<10)}
}

func (w *writer) host(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

func (w *writer) mkdir(name string) error {
	if w.folders[name] {
		return nil
	}
	if w.taken[name] {
		return errors.New("is both a folder and something else")
	}
	if name != "." {
		if err := w.mkdir(path.Dir(name)); err != nil {
			return err
		}
	}
	if err := os.Mkdir(w.host(name), 0o755); err != nil {
		return err
	}
	w.folders[name] = true
	w.order = append(w.order, name)
	return nil
}

// take reserves a name for something that is not a folder, and makes its folder.
func (w *writer) take(name string) error {
	if name == "." {
		return errors.New("is the top folder")
	}
	if w.taken[name] || w.folders[name] {
		return errors.New("comes twice")
	}
	if len(w.taken) >= maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if err := w.mkdir(path.Dir(name)); err != nil {
		return err
	}
	w.taken[name] = true
	return nil
}

func (w *writer) file(e entry, r io.Reader) error {
	if err := w.take(e.name); err != nil {
		return err
	}
	if w.o.Skip != nil && w.o.Skip(e.name) {
		w.skipped[e.name] = true
		_, err := io.Copy(io.Discard, r)
		return err
	}
	mode := os.FileMode(0o644)
	if e.executable {
		mode = 0o755
	}
	f, err := os.OpenFile(w.host(e.name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(r, w.o.limit-w.written+1), w.buf)
	w.written += n
	if w.written > w.o.limit {
		err = errors.Join(err, fmt.Errorf("the archive unpacks to more than %d bytes", w.o.limit))
	}
	if err == nil {
		err = f.Chmod(mode) // whatever the umask
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Chtimes(w.host(e.name), w.o.Time, w.o.Time)
}

func (w *writer) symlink(name, target string) error {
	if err := inside(name, target); err != nil {
		return err
	}
	if err := w.take(name); err != nil {
		return err
	}
	return os.Symlink(target, w.host(name))
}

func (w *writer) link(name, target string) error {
	if !w.taken[target] {
		return fmt.Errorf("hard link to %q, which did not come before", target)
	}
	if err := w.take(name); err != nil {
		return err
	}
	if w.skipped[target] {
		w.skipped[name] = true
		return nil
	}
	return os.Link(w.host(target), w.host(name))
}

// finish sets the modes and times of folders, inner ones first.
func (w *writer) finish() error {
	for i := len(w.order) - 1; i >= 0; i-- {
		p := w.host(w.order[i])
		if err := os.Chmod(p, 0o755); err != nil {
			return err
		}
		if err := os.Chtimes(p, w.o.Time, w.o.Time); err != nil {
			return err
		}
	}
	return nil
}
