package cpio

import (
	"errors"
	"fmt"
	"io"
)

// Writer writes an archive: for each entry Next, then the body with Write; at the end Close.
type Writer struct {
	w       io.Writer
	name    string // of the entry under way
	left    int64  // bytes of its body still to come
	padding int    // behind the body
	err     error  // the first failure to write; the archive is lost then
}

// NewWriter starts an archive.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Next begins an entry.
func (w *Writer) Next(h Header) error {
	if err := h.check(); err != nil {
		return fmt.Errorf("cpio entry %s: %w", h.Name, err)
	}
	if err := w.finish(); err != nil {
		return err
	}
	w.name, w.left, w.padding = h.Name, h.Size, padding(h.Size)
	return w.header(h)
}

func (w *Writer) header(h Header) error {
	// Fields in the format's order; the device that holds the file is 0:0, and without checksums so is the last field.
	b := fmt.Appendf(nil, magic+"%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		h.Inode, h.Mode, h.UID, h.GID, h.Links, h.Time, h.Size, 0, 0, h.DeviceMajor, h.DeviceMinor, len(h.Name)+1, 0,
		h.Name)
	b = append(b, zeros[:padding(int64(len(b)))]...)
	return w.write(b)
}

// Write adds to the body of the entry that Next began.
func (w *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("cpio entry %s: more bytes than its size", w.name)
	}
	w.left -= int64(len(p))
	return len(p), w.write(p)
}

func (w *Writer) finish() error {
	if w.left != 0 {
		return fmt.Errorf("cpio entry %s: %d bytes less than its size", w.name, w.left)
	}
	err := w.write(zeros[:w.padding])
	w.padding = 0
	return err
}

func (w *Writer) write(p []byte) error {
	if w.err == nil {
		_, w.err = w.w.Write(p)
	}
	return w.err
}

var errClosed = errors.New("cpio archive is closed")

// Close ends the archive. It does not close what is below.
func (w *Writer) Close() error {
	if err := w.finish(); err != nil {
		return err
	}
	if err := w.header(Header{Name: trailer, Links: 1}); err != nil {
		return err
	}
	w.err = errClosed
	return nil
}
