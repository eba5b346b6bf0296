package main

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/locking"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/builder/tasks"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/registry"
)

// hintFor is a second line for people: what they can do about an error, in the words of this command line. Packages say
// what is wrong, by types of errors; what to type is said here. It is empty where the error itself says enough.
func hintFor(err error) string {
	if l, ok := errors.AsType[*inputs.NoLock](err); ok {
		return lockAgain(l.Recipe, l.Arch)
	}
	if l, ok := errors.AsType[*inputs.StaleLock](err); ok {
		return lockAgain(l.Recipe, l.Arch)
	}
	if i, ok := errors.AsType[*tasks.ChangedInput](err); ok {
		return "undo the change, or run: katabuild lock " + i.Recipe
	}
	if o, ok := errors.AsType[*tasks.Offline](err); ok {
		if o.Recipe == "" {
			return "run it once without --offline"
		}
		return "run it once without --offline, or: katabuild fetch " + o.Recipe
	}
	if a, ok := errors.AsType[*builder.NoAgent](err); ok {
		if a.Rego {
			return "build it (make agent-rego)"
		}
		return "build it (make build; make agents for all architectures), or name one with --agent"
	}
	if hint := archiveHint(err); hint != "" {
		return hint
	}
	if _, ok := errors.AsType[*locking.NoToolchain](err); ok {
		return "where Debian's archive cannot be reached, --toolchain host builds with what is installed here"
	}
	if n, ok := errors.AsType[*builder.NoTimes](err); ok {
		if n.Built {
			return "have it built again, which takes its objects from the cache: katabuild store gc --unused-for 0, " +
				"then katabuild build " + filepath.Dir(n.Recipe)
		}
		return "run: katabuild build " + filepath.Dir(n.Recipe)
	}
	if _, ok := errors.AsType[*builder.NoCurses](err); ok {
		return "install libncurses-dev (apt install libncurses-dev), or leave --toolchain host out"
	}
	if hint := storeHint(err); hint != "" {
		return hint
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(p, fs.ErrNotExist) &&
		filepath.Base(p.Path) == manifest.Name {
		return "a guest is the folder that katabuild build makes: katabuild build RECIPE -o " + filepath.Dir(p.Path)
	}
	if f, ok := errors.AsType[*execute.Failure](err); ok && f.Log != "" {
		return "everything it said is in " + f.Log
	}
	return ""
}

// lockAgain is the command that makes a lock. arch is empty where the recipe's own is meant.
func lockAgain(recipe, arch string) string {
	if arch != "" {
		return "run: katabuild lock " + recipe + " --arch " + arch
	}
	return "run: katabuild lock " + recipe
}

// archiveHint is hintFor for Debian's archive and registries.
func archiveHint(err error) string {
	if errors.Is(err, fetch.ErrGone) {
		return "katabuild lock --update takes the present version"
	}
	if _, ok := errors.AsType[*fetch.NoArchive](err); ok {
		return "name one (that of a mirror, say) with --archive ADDRESS, and with --archive-keyring FILE the keys " +
			"that sign " +
			"it where they are not Debian's own; or use a tarball as source"
	}
	if _, ok := errors.AsType[*registry.Refused](err); ok {
		return "log in with docker login or podman login, or name a file of credentials with --registry-auth"
	}
	if i, ok := errors.AsType[*registry.Insecure](err); ok {
		return "if it is to be so: --registry-insecure " + i.Host
	}
	return ""
}

// storeHint is hintFor for the store.
func storeHint(err error) string {
	if _, ok := errors.AsType[*store.Full](err); ok {
		return "free some room (katabuild store gc), or name another folder with --store"
	}
	if _, ok := errors.AsType[*store.OtherLayout](err); ok {
		return "name another folder with --store"
	}
	if _, ok := errors.AsType[*store.Unsafe](err); ok {
		return "what lies there could be somebody else's doing: use a store of your own (--store), or, if all who " +
			"can write to it may, --store-shared"
	}
	return ""
}
