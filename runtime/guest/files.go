package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/runtime/sealed"
)

// checked copies a file into memory that nobody can change any more, and checks the digest of the copy: what a
// hypervisor gets is what was checked.
func (fs *Files) checked(dir string, f manifest.File) (*os.File, error) {
	path := filepath.Join(dir, filepath.FromSlash(f.Path))
	out, got, err := sealed.Copy(path, f.Size)
	if err != nil {
		return nil, err
	}
	if got != f.Digest {
		got, _, err := digest.File(path) // of all of it, for the message
		if err == nil {
			err = &digest.Mismatch{Name: path, Want: f.Digest, Got: got}
		}
		return nil, errors.Join(err, out.Close())
	}
	fs.Checked = append(fs.Checked, f.Path)
	return out, nil
}

// checkedInPlace opens a file and checks its digest without a copy, so that all guests which were made from it share
// its pages. What changes in it afterwards has to be found out by somebody else: dm-verity in the guest.
func (fs *Files) checkedInPlace(dir string, f manifest.File) (*os.File, error) {
	path := filepath.Join(dir, filepath.FromSlash(f.Path))
	file, got, err := digested(path)
	if err != nil {
		return nil, err
	}
	if got != f.Digest {
		return nil, errors.Join(&digest.Mismatch{Name: path, Want: f.Digest, Got: got}, file.Close())
	}
	fs.Checked = append(fs.Checked, f.Path)
	return file, nil
}

// digested opens a file and digests it.
func digested(path string) (*os.File, digest.Digest, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	sum := digest.New()
	if _, err := io.Copy(sum, file); err != nil {
		return nil, "", errors.Join(fmt.Errorf("read %s: %w", path, err), file.Close())
	}
	return file, sum.Digest(), nil
}

// Booted is a file that a plain guest was booted from.
type Booted struct {
	Path string `json:"path"`
	// of the file that the machine got, unpacked where it could not do that; of an image, as it was when the guest was
	// started
	Digest digest.Digest `json:"digest"`
}

// Files are those that a guest is started from, open for a hypervisor, which may hand them on. Those that the guest has
// not are nil. Whoever has them closes them.
type Files struct {
	Kernel, Initrd, Image *os.File
	// ImageInPlace says that Image is the file itself and no copy, open for reading: all guests that were made from it
	// share its pages.
	ImageInPlace bool

	Checked []string // paths in the manifest of the files that were found to be what it says
	Booted  []Booted // of a guest without a manifest
}

// Close closes what is open.
func (f *Files) Close() error {
	var errs []error
	for _, f := range []*os.File{f.Kernel, f.Initrd, f.Image} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Open opens the guest's files, and compares each with the manifest, where there is one. A file that is not what the
// manifest says is a *digest.Mismatch.
func (g *Guest) Open() (_ *Files, err error) {
	f := &Files{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if !g.Described() {
		return f, g.openPlain(f)
	}
	m := g.Manifest
	kernel := m.Kernel.Vmlinux
	if g.Kernel == g.path(m.Kernel.Image) {
		kernel = m.Kernel.Image
	}
	if f.Kernel, err = f.checked(g.Dir, kernel); err != nil {
		return nil, err
	}
	if i := m.Initrd; i != nil {
		if f.Initrd, err = f.checked(g.Dir, i.File); err != nil {
			return nil, err
		}
	}
	if i := m.Image; i != nil {
		open := f.checked
		if f.ImageInPlace = i.Verity != nil && m.Boot.Disk != manifest.NVDIMM; f.ImageInPlace {
			open = f.checkedInPlace
		}
		if f.Image, err = open(g.Dir, i.File); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// openPlain opens the files of a plain guest, and notes what they are. The image is used where it lies.
func (g *Guest) openPlain(f *Files) (err error) {
	k := g.file
	if k.packed && k.unpacked == nil { // it was opened before
		if k, err = readKernel(g.Kernel); err != nil {
			return err
		}
	}
	sum := k.Digest
	if k.unpacked != nil {
		f.Kernel, _, err = sealed.From(g.Kernel, bytes.NewReader(k.unpacked))
		k.unpacked = nil // the copy is what is booted
	} else {
		f.Kernel, sum, err = sealed.Copy(g.Kernel, maxKernel)
	}
	if err != nil {
		return err
	}
	f.Booted = append(f.Booted, Booted{g.Kernel, sum})
	if g.Initrd != "" {
		if f.Initrd, sum, err = sealed.Copy(g.Initrd, -1); err != nil {
			return err
		}
		f.Booted = append(f.Booted, Booted{g.Initrd, sum})
	}
	if g.Image != "" {
		f.ImageInPlace = true
		if f.Image, sum, err = digested(g.Image); err != nil {
			return err
		}
		f.Booted = append(f.Booted, Booted{g.Image, sum})
	}
	return nil
}
