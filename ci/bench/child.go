package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"sync"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/rootfs"
	"github.com/katabuild/katabuild/rootfs/debian"
	"github.com/katabuild/katabuild/rootfs/erofs"
	"github.com/katabuild/katabuild/rootfs/partition"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// child is this program as a process of its own, so that a part of our work is measured just as a foreign tool is:
// `bench child WORK ARGUMENT…`. With BENCH_PROFILE it leaves a profile of the processor's time there, for go tool
// pprof.
func child(args []string) (err error) {
	if p := os.Getenv("BENCH_PROFILE"); p != "" {
		f, err := os.Create(p)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer func() {
			pprof.StopCPUProfile()
			err = errors.Join(err, f.Close())
		}()
	}
	switch {
	case len(args) == 5 && args[0] == "disk":
		return disk(args[1], args[2], args[3], args[4])
	case len(args) > 2 && args[0] == "debian":
		return packages(args[1], args[2:])
	}
	return fmt.Errorf("child %q: want disk FILE-SYSTEM COMPRESSION FOLDER IMAGE, or debian FOLDER PACKAGE", args)
}

// disk makes a disk with a partition table and verity of a folder: what `katabuild image` does, without its digests,
// store and bill of materials.
func disk(fileSystem, compression, folder, image string) error {
	c, err := erofs.ParseCompression(compression)
	if err != nil {
		return err
	}
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return err
	}
	t, err := tree.FromDir(folder, tree.DirOptions{})
	if err != nil {
		return err
	}
	r := rootfs.Request{Arch: host, Name: "bench"}
	_, _, err = r.WriteDisk(context.Background(), rootfs.Disk{FileSystem: fileSystem, Compression: c,
		Layout: partition.GPT, Verity: true}, t, &tree.Opener{}, image)
	return err
}

// packages unpacks packages into a folder, each to a tar, and installs them into a tree: what the steps that
// unpack, and the step image, do before the disk.
func packages(folder string, files []string) error {
	debs := make([]*debian.Deb, len(files))
	errs := make([]error, len(files))
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for i := range next {
				dir := filepath.Join(folder, strconv.Itoa(i))
				if errs[i] = os.Mkdir(dir, 0o755); errs[i] == nil {
					debs[i], errs[i] = debian.Unpack(files[i], dir)
				}
			}
		})
	}
	for i := range files {
		next <- i
	}
	close(next)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return debian.Install(tree.New(), debs, debian.Options{})
}
