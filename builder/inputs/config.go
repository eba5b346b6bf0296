// Package inputs is what a build works with: the request with its recipe and lock, the list of everything that the
// recipe asks for, and where each of it comes from.
//
// It reads recipes and locks and compares them. It resolves no name, and builds nothing.
package inputs

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/fetch"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/builder/remote"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/initrd"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/toolchain"
	"github.com/katabuild/katabuild/rootfs/erofs"
)

// Config says what to build, from where, and for whom.
type Config struct {
	Recipe string // path of the recipe file
	Lock   string // path of its lock; empty means lock.json beside the recipe
	Store  *store.Store
	// Arch is the architecture to build for; empty is the recipe's own.
	Arch string
	// Toolchain, when not empty, is what the kernel is built with, whatever the recipe says: debian, llvm or host.
	Toolchain string
	// Agent finds the agent that came with katabuild for an architecture.
	Agent func(arch.Arch) string
	// RegoAgent finds the one that reads policies in Rego too, for recipes that ask for it.
	RegoAgent func(arch.Arch) string
	Offline   bool // never reach a network: what the store lacks is an error
	Jobs      int  // processes a step may run at once; zero means one a CPU
	// Archive, when not empty, replaces the host's own Debian archive: a sources.list URI, with apt options for it.
	Archive    string
	AptOptions []string
	HTTP       *http.Client // nil means the default client
	// HTTPArchive, when not empty, is the address of a Debian archive that is reached without apt; ArchiveKeyring is
	// the file of keys that sign it. SecurityArchive is the address of its security updates; empty is debian-security
	// beside it.
	HTTPArchive, SecurityArchive, ArchiveKeyring string
	// Registries says how registries of container images are reached.
	Registries registry.Access
	// Mirror is asked for inputs before all others; nil is none.
	Mirror fetch.Mirror
	// Snapshot is the address of an archive of archives for packages that the archive has dropped; empty is none.
	Snapshot    string
	Report      progress.Func
	Now         func() time.Time // must be set; only locks and expectations see it
	Go          string           // the Go program, for u-root commands; empty where there is none
	Env         []string         // the environment to run Go and apt in
	ToolFolders []string         // where the tool-chain is looked for, first match first
	CC          string           // the program katabuild-cc, for a cache of compiled objects; empty keeps none
	// Others are caches with which the outputs of steps are shared; nil shares nothing. Whoever makes it closes it.
	Others *remote.Team
}

// LockPath is where the lock of a recipe lies. What is locked for another architecture than the recipe's own are other
// packages, and so another lock.
func (c Config) LockPath(r *recipe.Recipe) string {
	switch {
	case c.Lock != "":
		return c.Lock
	case r.Other():
		return filepath.Join(filepath.Dir(c.Recipe), lock.FileNameFor(r.Arch))
	}
	return filepath.Join(filepath.Dir(c.Recipe), lock.FileName)
}

// Fetcher is where the inputs of a recipe come from. l is the lock that counts; nil where there is none yet.
func (c Config) Fetcher(r *recipe.Recipe, l *lock.Lock) (*fetch.Fetcher, error) {
	a, err := arch.Parse(r.Arch)
	if err != nil {
		return nil, err
	}
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	f := &fetch.Fetcher{
		Store: c.Store, Base: filepath.Dir(c.Recipe), Arch: a.Debian, Host: host.Debian, HTTP: c.HTTP,
		Apt:      &fetch.Apt{Dir: c.Store.Private("apt"), Sources: c.Archive, Options: c.AptOptions, Env: c.Env},
		Snapshot: c.Snapshot, Mirror: c.Mirror,
		Registry: &registry.Client{Access: c.Registries},
	}
	if l != nil {
		f.SnapshotTime = time.Unix(l.Time, 0)
	}
	if c.HTTPArchive != "" {
		f.Apt = &fetch.HTTP{Base: c.HTTPArchive, Security: c.SecurityArchive, Keyring: c.ArchiveKeyring,
			Dir: c.Store.Private("archive"), Client: c.HTTP, Now: c.Now}
	}
	if r.Rootfs == nil {
		return f, nil
	}
	f.Own = map[string]fetch.Archive{}
	for _, l := range r.Rootfs.Layers {
		if l.Debian == nil {
			continue
		}
		for _, a := range l.Debian.Archives {
			own, err := c.OwnArchive(context.Background(), f, a)
			if err != nil {
				return nil, fmt.Errorf("archive %s: %w", a.Name, err)
			}
			f.Own[a.Name] = own.Archive
		}
	}
	return f, nil
}

// ReadRecipe reads the recipe for the architecture that is asked for, and its digest.
func (c Config) ReadRecipe() (*recipe.Recipe, digest.Digest, error) {
	data, err := regular.ReadFile(c.Recipe, recipe.MaxSize)
	if err != nil {
		return nil, "", err
	}
	v, err := Vocabulary()
	if err != nil {
		return nil, "", err
	}
	if c.Arch != "" {
		a, err := arch.Parse(c.Arch)
		if err != nil {
			return nil, "", err
		}
		v.Arch = a.Name
	}
	r, err := recipe.Parse(c.Recipe, data, v)
	if err != nil {
		return nil, "", err
	}
	if c.Toolchain != "" && !r.Extension {
		if !slices.Contains(v.Toolchains, c.Toolchain) {
			return nil, "", fmt.Errorf("unknown tool-chain %q (known: %s)", c.Toolchain, strings.Join(v.Toolchains,
				", "))
		}
		r.Kernel.Toolchain = c.Toolchain
	}
	return r, digest.Of(data), checkLine(r)
}

// Vocabulary is what kernel, initrd and rootfs can do, for the recipe's reader.
func Vocabulary() (recipe.Vocabulary, error) {
	var v recipe.Vocabulary
	all, err := features.All(arch.All()[0]) // each architecture has the same names
	if err != nil {
		return v, err
	}
	for _, f := range all {
		v.Features = append(v.Features, f.Name)
	}
	v.URoot, v.ImageCompressions, v.Toolchains = initrd.Commands(), erofs.Compressions(), toolchain.Kinds()
	return v, nil
}

// OwnArchive is one of the recipe's archives, and what of it counts.
type OwnArchive struct {
	Archive  *fetch.HTTP
	Sections []fetch.Section
}

// OwnArchive reads what a recipe says of an archive, or the file that says it. Keys come from beside the recipe.
func (c Config) OwnArchive(ctx context.Context, f *fetch.Fetcher, a recipe.Archive) (*OwnArchive, error) {
	read := func(name string) ([]byte, error) {
		in := lock.Input{Name: lock.ArchiveInput(name), Kind: lock.Local, Where: name}
		if recipe.IsURL(name) {
			return nil, fmt.Errorf("%s: want a file beside the recipe", name)
		}
		return os.ReadFile(filepath.Join(f.Base, filepath.FromSlash(in.Where)))
	}
	src := fetch.Source{Address: a.Address, Suites: []string{a.Suite}, Components: a.Components}
	var err error
	if a.Sources != "" {
		data, rerr := read(a.Sources)
		if rerr != nil {
			return nil, rerr
		}
		if src, err = fetch.ParseSource(data); err != nil {
			return nil, fmt.Errorf("%s: %w", a.Sources, err)
		}
		if src.KeyFile != "" {
			if src.Keys, err = os.ReadFile(src.KeyFile); err != nil {
				return nil, fmt.Errorf("%s: Signed-By: %w", a.Sources, err)
			}
		}
	} else if src.Keys, err = read(a.Keyring); err != nil {
		return nil, err
	}
	out := &OwnArchive{Archive: &fetch.HTTP{
		Base: src.Address, Security: src.Address, Keys: src.Keys,
		Dir:    c.Store.Private(filepath.Join("archives", digest.Of([]byte(src.Address)).Short())),
		Client: c.HTTP, Now: c.Now,
	}}
	for _, suite := range src.Suites {
		for _, component := range src.Components {
			out.Sections = append(out.Sections, fetch.Section{Suite: suite, Component: component})
		}
	}
	return out, ctx.Err()
}
