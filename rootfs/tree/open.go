package tree

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/digest"
)

// hostFile is an open file of the host. An os.File would ask the kernel four times more, for each file, whether it is
// one that can be waited for.
type hostFile struct {
	path string
	fd   int
}

// openHost opens a regular file for reading. The flags are added to those that every file gets: it never waits, and
// becomes no terminal.
func openHost(path string, flags int) (*hostFile, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0)
		if err == nil {
			return &hostFile{path, fd}, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
	}
}

// ReadAt implements io.ReaderAt.
func (f *hostFile) ReadAt(b []byte, off int64) (done int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s at %d", f.path, off)
	}
	for done < len(b) {
		n, err := unix.Pread(f.fd, b[done:], off+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return done, fmt.Errorf("read %s: %w", f.path, err)
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

// Close implements io.Closer. It comes once.
func (f *hostFile) Close() error {
	if err := unix.Close(f.fd); err != nil {
		return fmt.Errorf("close %s: %w", f.path, err)
	}
	return nil
}

// ErrChanged says that a file is not, or no longer, what it was when its folder was listed.
var ErrChanged = errors.New("it was changed while it was read")

// Live is content that lies in a file which somebody may be changing meanwhile, such as one of a folder beside a
// recipe. Callers that make something of it must compare the digest of what was read, which an Opener tells, with the
// one that was expected. What ReadAll reads stays in memory and is what every later reader gets, so that no two readers
// see different bytes.
type Live struct {
	Path   string // a file; it may be a link to one where Digest is known
	Length int64  // bytes that it had when it was listed; another length is an ErrChanged
	// Digest is what callers expect, where the file has a digest of its own; otherwise it is empty.
	Digest digest.Digest

	kept []byte // what ReadAll read
}

// Size implements Content.
func (l *Live) Size() int64 { return l.Length }

// Data implements Content.
func (l *Live) Data() []Range { return whole(l.Length) }

// Open implements Content.
func (l *Live) Open() (Reader, error) {
	if l.kept != nil {
		return memoryReader{bytes.NewReader(l.kept)}, nil
	}
	flags := 0
	if l.Digest == "" {
		flags = unix.O_NOFOLLOW
	}
	f, err := openHost(l.Path, flags)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", l.Path, err), f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != l.Length {
		return nil, errors.Join(fmt.Errorf("%s: %w", l.Path, ErrChanged), f.Close())
	}
	return newSectionReader(f, 0, l.Length, f), nil
}

// Sum is two digests of a file's bytes, holes as zeros.
type Sum struct {
	SHA1   [sha1.Size]byte // which bills of materials must name; it proves nothing
	SHA256 [sha256.Size]byte
}

// knownSum is what an Opener has found out of a Node with this content.
type knownSum struct {
	by  *Opener
	sum Sum
}

// Opener opens the files of a tree for whoever goes through them once, such as the writer of an image. It keeps what
// several files lie in open between them, and digests every file while it is read, so that nobody needs to read it
// again for that. The zero value is ready. Several goroutines may use it; each Reader is one goroutine's, and reads
// from the front to the back.
type Opener struct {
	// WithSums says that Sum will be asked for.
	WithSums bool

	mu     sync.Mutex // guards what follows, and known of every Node
	shared []*sharedFile
	spare  []*summer
	wrong  error // of the first Live file that is not what was expected
}

// sharedFiles is how many files an Opener keeps open. The files of a package come together, a few of them in turns.
const sharedFiles = 16

// sharedFile is an open file that holds many contents.
type sharedFile struct {
	*hostFile
	users int // readers that are open, and one more while it is in Opener.shared
	owner *Opener
}

// Close takes one user away.
func (f *sharedFile) Close() error {
	f.owner.mu.Lock()
	defer f.owner.mu.Unlock()
	return f.leave()
}

func (f *sharedFile) leave() error {
	if f.users--; f.users > 0 {
		return nil
	}
	return f.hostFile.Close()
}

// share opens a file that holds many contents, or finds it open. The caller closes it.
func (o *Opener) share(path string) (*sharedFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, f := range o.shared {
		if f.path == path {
			copy(o.shared[1:i+1], o.shared[:i]) // the one used last comes first
			o.shared[0] = f
			f.users++
			return f, nil
		}
	}
	h, err := openHost(path, 0)
	if err != nil {
		return nil, err
	}
	f := &sharedFile{hostFile: h, users: 2, owner: o}
	if len(o.shared) == sharedFiles {
		err = o.shared[sharedFiles-1].leave()
		o.shared = o.shared[:sharedFiles-1]
	}
	o.shared = append([]*sharedFile{f}, o.shared...)
	return f, err
}

// Close closes what the Opener keeps open. The sums stay.
func (o *Opener) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, f := range o.shared {
		errs = append(errs, f.leave())
	}
	o.shared = nil
	return errors.Join(errs...)
}

// Open opens a File that has content. The caller closes the Reader.
func (o *Opener) Open(n *Node) (Reader, error) {
	var r Reader
	var err error
	switch c := n.Content.(type) {
	case *Section:
		r, err = c.openIn(o)
	case *Spread:
		r, err = c.openIn(o)
	default:
		r, err = c.Open()
	}
	if err != nil || !o.WithSums {
		return r, err
	}
	return &summing{Reader: r, o: o, n: n, s: o.summer()}, nil
}

// ReadAll is the whole content of a small File, as the function ReadAll has it. Where the file has been read before,
// and is another one now, it is an ErrChanged.
func (o *Opener) ReadAll(n *Node) ([]byte, error) {
	data, err := ReadAll(n)
	if err != nil {
		return nil, err
	}
	sum, ok := o.known(n)
	if ok && sha256.Sum256(data) != sum.SHA256 {
		return nil, ErrChanged
	}
	return data, nil
}

// Sum is the sum of a File: that of the bytes which were read through Open, as far as the Reader was closed after its
// last byte, and else of what is read now.
func (o *Opener) Sum(ctx context.Context, n *Node) (Sum, error) {
	sum, ok := o.known(n)
	if ok {
		return sum, nil
	}
	s := o.summer()
	defer o.release(s)
	if n.Size() > 0 {
		r, err := n.Content.Open()
		if err != nil {
			return Sum{}, err
		}
		defer r.Close()
		if err := s.readUpTo(ctx, r, n.Size()); err != nil {
			return Sum{}, err
		}
	}
	sum = s.sum()
	o.keep(n, sum)
	return sum, nil
}

func (o *Opener) known(n *Node) (Sum, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n.known == nil || n.known.by != o {
		return Sum{}, false
	}
	return n.known.sum, true
}

func (o *Opener) keep(n *Node, sum Sum) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n.known = &knownSum{o, sum}
	if l, ok := n.Content.(*Live); ok && l.Digest != "" && o.wrong == nil {
		if got := digest.OfSum(sum.SHA256); got != l.Digest {
			o.wrong = &digest.Mismatch{Name: l.Path, Want: l.Digest, Got: got}
		}
	}
}

// Wrong is a *digest.Mismatch where a Live file that was summed does not have its Digest, else nil.
func (o *Opener) Wrong() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wrong
}

// summer digests a file.
type summer struct {
	sha1, sha256 hash.Hash
	at           int64  // bytes so far
	buf          []byte // for bytes that nobody else reads
}

func (o *Opener) summer() *summer {
	o.mu.Lock()
	defer o.mu.Unlock()
	if k := len(o.spare) - 1; k >= 0 {
		s := o.spare[k]
		o.spare = o.spare[:k]
		return s
	}
	return &summer{sha1: sha1.New(), sha256: sha256.New()}
}

func (o *Opener) release(s *summer) {
	s.sha1.Reset()
	s.sha256.Reset()
	s.at = 0
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spare = append(o.spare, s)
}

func (s *summer) write(b []byte) {
	s.sha1.Write(b)
	s.sha256.Write(b)
	s.at += int64(len(b))
}

func (s *summer) sum() (sum Sum) {
	s.sha1.Sum(sum.SHA1[:0])
	s.sha256.Sum(sum.SHA256[:0])
	return sum
}

// readUpTo reads what comes before an offset.
func (s *summer) readUpTo(ctx context.Context, r io.ReaderAt, end int64) error {
	if s.buf == nil {
		s.buf = make([]byte, 128<<10)
	}
	for s.at < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := s.buf[:min(int64(len(s.buf)), end-s.at)]
		n, err := r.ReadAt(b, s.at)
		s.write(b[:n])
		if n < len(b) {
			if err == nil || err == io.EOF {
				err = fmt.Errorf("%d bytes of %d: %w", s.at, end, io.ErrUnexpectedEOF)
			}
			return err
		}
	}
	return nil
}

// summing digests what is read. What the reader leaves out, such as holes, it reads itself.
type summing struct {
	Reader
	o   *Opener
	n   *Node
	s   *summer
	pos int64 // where Read goes on
	err error
}

func (r *summing) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.saw(b[:n], r.pos)
	r.pos += int64(n)
	return n, err
}

func (r *summing) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(b, off)
	r.saw(b[:n], off)
	return n, err
}

func (r *summing) saw(b []byte, off int64) {
	if r.err == nil && off > r.s.at {
		r.err = r.s.readUpTo(context.Background(), r.Reader, off)
	}
	if known := r.s.at - off; r.err == nil && known < int64(len(b)) {
		r.s.write(b[known:])
	}
}

func (r *summing) Close() error {
	// The end is left out where it is a hole, or where the reader failed; then nobody asks.
	if r.err == nil && r.s.at == r.n.Size() {
		r.o.keep(r.n, r.s.sum())
	}
	r.o.release(r.s)
	return errors.Join(r.err, r.Reader.Close())
}
