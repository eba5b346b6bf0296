// Package bugreport makes one archive of all that somebody needs who looks into a fault of a host: parts, each bounded
// in size and time and with secrets taken out. A part that cannot be had does not keep the others from being there.
package bugreport

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Bounds of a part.
const (
	// maxPart is how many bytes of a part are kept: its end, which is the newest of a log.
	maxPart  = 8 << 20
	partTime = 30 * time.Second
)

// Part is one file of the archive.
type Part struct {
	Name string // its path in the archive, with slashes; what ends with .json is read as JSON
	What string // what it is, for people
	// Write writes it. What it has written stays when it fails, and the error is told.
	Write func(ctx context.Context, w io.Writer) error
}

// Summary is what an archive has.
type Summary struct {
	Parts  int
	Taken  string   // how many secrets were taken out
	Lacked []string // what could not be had, and why
}

// Write writes the archive: a folder called name, in tar with zstd, with every part in it, a README that lists them,
// and errors.txt, which says what could not be had. progress is told the name of each part before it is made. The error
// is w's or ctx's.
func Write(ctx context.Context, w io.Writer, name string, now time.Time, parts []Part,
	progress func(string)) (s Summary, err error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return s, err
	}
	t := tar.NewWriter(z)
	add := func(file string, b []byte) error {
		h := &tar.Header{Name: path.Join(name, file), Mode: 0o600, Size: int64(len(b)),
			ModTime: now.Truncate(time.Second), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		_, err := t.Write(b)
		return err
	}
	r := &redactor{taken: map[string]int{}}
	var list strings.Builder
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			return s, errors.Join(context.Cause(ctx), z.Close())
		}
		progress(p.Name)
		b, err := p.make(ctx)
		if err != nil {
			s.Lacked = append(s.Lacked, fmt.Sprintf("%s: %v", p.Name, err))
		}
		if len(b) == 0 {
			continue
		}
		if path.Ext(p.Name) == ".json" {
			b = r.document(b)
		} else {
			b = r.text(b)
		}
		if err := add(p.Name, b); err != nil {
			return s, errors.Join(err, z.Close())
		}
		s.Parts++
		fmt.Fprintf(&list, "%-40s %s\n", p.Name, p.What)
	}
	s.Taken = r.String()
	lacked := ""
	if len(s.Lacked) > 0 {
		lacked = strings.Join(s.Lacked, "\n") + "\n"
		list.WriteString("errors.txt                               what could not be had, and why\n")
	}
	readme := fmt.Sprintf("What kata-runtime debug found on this host, %s.\n\n%s\nTaken out: %s. Values whose names "+
		"sound like secrets, keys, tokens and users of addresses\nare not in here; look through it all the same "+
		"before you give it away.\n", now.UTC().Format(time.RFC3339), list.String(), s.Taken)
	err = add("README", []byte(readme))
	if err == nil && lacked != "" {
		err = add("errors.txt", r.text([]byte(lacked)))
	}
	return s, errors.Join(err, t.Close(), z.Close())
}

// make makes the part, within its bounds.
func (p Part) make(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, partTime, fmt.Errorf("it took more than %v", partTime))
	defer cancel()
	var b tail
	err := p.Write(ctx, &b)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if b.dropped > 0 {
		err = errors.Join(err, fmt.Errorf("the first %d bytes are left out: a part has at most %d", b.dropped, maxPart))
	}
	return b.bytes(), err
}

// tail keeps the end of what is written to it.
type tail struct {
	b       []byte
	dropped int64
}

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if n := len(t.b) - 2*maxPart; n > 0 { // seldom, as it moves what stays
		t.drop(len(t.b) - maxPart)
	}
	return len(b), nil
}

func (t *tail) drop(n int) {
	t.b = t.b[:copy(t.b, t.b[n:])]
	t.dropped += int64(n)
}

func (t *tail) bytes() []byte {
	if n := len(t.b) - maxPart; n > 0 {
		t.drop(n)
	}
	return t.b
}
