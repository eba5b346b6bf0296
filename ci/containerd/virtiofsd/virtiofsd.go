// Package virtiofsd has the virtiofsd in Rust of a newer Debian than the host's, with the libraries that it is linked
// to. Nothing is installed.
package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/arch"
)

// installed is where Debian puts it, from version 13 on.
const installed = "/usr/libexec/virtiofsd"

// suite is the first Debian that has it.
const suite = "trixie"

// packages are the program's, then those of the libraries that it needs.
var packages = []string{"virtiofsd", "libc6", "libcap-ng0", "libseccomp2", "libgcc-s1"}

// Rust is the path of the host's own, or of one that is brought into the folder cache and stays there.
func Rust(ctx context.Context, cache string, a arch.Arch) (string, error) {
	if _, err := os.Stat(installed); err == nil {
		return installed, nil
	}
	dir := filepath.Join(cache, "virtiofsd-"+suite)
	program := filepath.Join(dir, "virtiofsd")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(filepath.Join(part, "debs"), 0o755)); err != nil {
		return "", err
	}
	apt := &fetch.Apt{Dir: filepath.Join(cache, "apt"), Env: os.Environ()}
	var list []lock.Package
	for _, name := range packages {
		found, err := apt.Resolve(ctx, suite, a.Debian, name)
		if err != nil {
			return "", err
		}
		list = append(list, found.Package)
	}
	if err := apt.FetchAll(ctx, fetch.Section{Suite: suite}, list, a.Debian, filepath.Join(part, "debs")); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(part, "debs", "*.deb"))
	if err != nil || len(debs) != len(packages) {
		return "", fmt.Errorf("apt-get left %d packages, want %d: %w", len(debs), len(packages), err)
	}
	for _, d := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", d,
			filepath.Join(part, "tree")).CombinedOutput(); err != nil {
			return "", fmt.Errorf("unpack %s: %w: %s", d, err, out)
		}
	}
	// The loader runs the program with the libraries beside it, and has its name, by which the program is found among
	// the host's processes.
	libraries, err := filepath.Glob(filepath.Join(part, "tree/usr/lib/*-linux-gnu*/libc.so.6"))
	if err != nil || len(libraries) != 1 {
		return "", fmt.Errorf("libc.so.6 is there %d times: %w", len(libraries), err)
	}
	rel, err := filepath.Rel(part, filepath.Dir(libraries[0]))
	if err != nil {
		return "", err
	}
	loaders, err := filepath.Glob(filepath.Join(part, "tree/usr/lib*/ld*.so.*"))
	loaders = slices.DeleteFunc(loaders, func(p string) bool {
		st, err := os.Stat(p)
		return err != nil ||
			!st.Mode().IsRegular()
	})
	if err != nil || len(loaders) != 1 {
		return "", fmt.Errorf("loaders: %q, want one: %w", loaders, err)
	}
	loader, err := os.ReadFile(loaders[0])
	if err != nil {
		return "", err
	}
	script := fmt.Sprintf("#!/bin/sh\nexec %s/virtiofsd-loader --library-path %s/%s %s/tree/usr/libexec/virtiofsd "+
		"\"$@\"\n", dir, dir, rel, dir)
	return program, errors.Join(os.WriteFile(filepath.Join(part, "virtiofsd-loader"), loader, 0o755),
		os.WriteFile(filepath.Join(part, "virtiofsd"), []byte(script), 0o755),
		os.RemoveAll(dir), os.Rename(part, dir))
}
