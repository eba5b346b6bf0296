package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// defaultFSType is the file system of a volume for which none is named.
const defaultFSType = "ext4"

// fileSystem is one that volumes may have.
type fileSystem struct {
	name     string
	pkg      string     // of Debian, with its programs
	smallest int64      // bytes
	make     []string   // makes it; the image follows
	grow     [][]string // makes it as large as its image while nobody has it mounted; nil for one that does not grow
}

// fileSystems are those that volumes may have. An image is new, and full of zeros: nothing has to be discarded.
var fileSystems = []fileSystem{
	{name: defaultFSType, pkg: "e2fsprogs", smallest: 4 << 20,
		make: []string{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard"},
		// resize2fs(8) wants a file system that was checked after it was last mounted.
		grow: [][]string{{"e2fsck", "-f", "-p"}, {"resize2fs"}}},
	{name: "xfs", pkg: "xfsprogs", smallest: 300 << 20, make: []string{"mkfs.xfs", "-q", "-f", "-K"}},
}

// known finds a file system by its name.
func known(name string) (*fileSystem, error) {
	i := slices.IndexFunc(fileSystems, func(f fileSystem) bool { return f.name == name })
	if i < 0 {
		return nil, fmt.Errorf("file system %q: %w: want ext4 or xfs", name, ErrFSType)
	}
	return &fileSystems[i], nil
}

// programTime bounds a program that makes or grows a file system.
const programTime = 10 * time.Minute

// maxWords bounds what is told of a program's words, in bytes.
const maxWords = 1024

// corrected is how e2fsck(8) ends that has mended something.
const corrected = 1

// run runs a program of a file system on an image.
func (f *fileSystem) run(ctx context.Context, argv []string, image string) error {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	path, err := find(argv[0])
	if err != nil {
		return fmt.Errorf("%s: %w: install the package %s", argv[0], ErrNoProgram, f.pkg)
	}
	c := exec.CommandContext(ctx, path, append(slices.Clone(argv[1:]), image)...)
	c.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	err = c.Run()
	if e, is := errors.AsType[*exec.ExitError](err); is && argv[0] == "e2fsck" && e.ExitCode() == corrected {
		return nil
	}
	if err != nil {
		words := strings.Join(strings.Fields(said.String()), " ")
		return fmt.Errorf("%s %s: %w: %s", argv[0], image, errors.Join(err, ctx.Err()),
			words[:min(len(words), maxWords)])
	}
	return nil
}

// find finds a program where root has it, though it be on no $PATH.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil {
			return path, nil
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	return path, err
}
