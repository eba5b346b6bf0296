package guest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/dmverity"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/gpt"
	"github.com/katabuild/katabuild/internal/superblock"
)

// maxHashFile bounds root_hash.txt, in bytes; the longest line there is has 700.
const maxHashFile = 4096

// Extension is an image that is attached to a guest beside its root.
type Extension struct {
	extension.Extension
	Dir   string // with the image and its root hash
	Image string // of the image alone, when it is not in Dir
}

// ReadExtension reads the folder of an extension, given as FOLDER or NAME=FOLDER. Without a name it is the label of the
// image's file system. What the image holds is for the guest to check, against the root hash.
func ReadExtension(arg string) (Extension, error) {
	e := Extension{Dir: arg}
	if name, dir, ok := strings.Cut(arg, "="); ok && !strings.Contains(name, "/") {
		e.Name, e.Dir = name, dir
	}
	line, err := readSmall(filepath.Join(e.Dir, extension.HashName), maxHashFile)
	if err != nil {
		return e, fmt.Errorf("extension %s: %w", e.Dir, err)
	}
	if e.Params, err = dmverity.ParseParams(strings.TrimSuffix(string(line), "\n")); err != nil {
		return e, fmt.Errorf("extension %s: %s: %w", e.Dir, extension.HashName, err)
	}
	if e.Dir != arg {
		if err := extension.CheckName(e.Name); err != nil {
			return e, fmt.Errorf("extension %s: %w", arg, err)
		}
		return e, nil
	}
	if e.Name, err = readLabel(e.Path()); err == nil {
		err = extension.CheckName(e.Name)
	}
	if err != nil {
		return e, fmt.Errorf("extension %s: %w; name it with NAME=FOLDER", e.Dir, err)
	}
	return e, nil
}

// Path is that of the image.
func (e Extension) Path() string {
	if e.Image != "" {
		return e.Image
	}
	return filepath.Join(e.Dir, extension.ImageName)
}

func readSmall(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return b, err
}

func readLabel(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return label(f)
}

// label reads the label of the erofs in the first partition of a disk.
func label(disk io.ReaderAt) (string, error) {
	first := make([]byte, gpt.SectorSize)
	if _, err := disk.ReadAt(first, 0); err != nil {
		return "", fmt.Errorf("partition table: %w", err)
	}
	return superblock.EROFSLabel(disk, gpt.FirstSector(first)*gpt.SectorSize)
}
