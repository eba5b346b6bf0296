package inputs

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel/toolchain"
	"github.com/katabuild/katabuild/rootfs/debian"
)

// Wish is one input a recipe asks for, before it is pinned.
type Wish struct {
	Name  string // the input's name in the lock
	Kind  string
	Where string // an address or a path relative to the recipe
	Deb   *recipe.Debian
	Field string // of the recipe that asks for it, for errors
	Tar   bool   // it has to be a tar
}

// PackageInput is the lock's name for a package of an archive: whichever layer asks for it, it is the same.
func PackageInput(p *debian.Package) string {
	name := fmt.Sprintf("debian package %s %s %s", p.Name, p.Version, p.Arch)
	if p.Source.Archive != "" {
		name += " of " + p.Source.Archive
	}
	return name
}

// Wishes lists every input of a recipe, each once.
func Wishes(r *recipe.Recipe) []Wish {
	var out []Wish
	seen := map[string]bool{}
	add := func(w Wish) {
		if !seen[w.Name] {
			seen[w.Name] = true
			out = append(out, w)
		}
	}
	of := func(name, where, field string) Wish {
		kind := lock.Local
		if recipe.IsURL(where) {
			kind = lock.URL
		}
		return Wish{Name: name, Kind: kind, Where: where, Field: field}
	}
	file := func(name, where, field string) { add(of(name, where, field)) }
	switch s := r.Kernel.Source; {
	case r.Extension: // has no kernel
	case s.Debian != nil:
		add(Wish{Name: lock.SourceInput, Kind: lock.Debian, Deb: s.Debian, Field: "kernel.source.debian"})
	case s.Tarball != nil:
		w := of(lock.SourceInput, s.Tarball.From, "kernel.source.tarball.from")
		w.Tar = true
		add(w)
		if s.Tarball.Signature != "" {
			file(lock.SignatureInput, s.Tarball.Signature, "kernel.source.tarball.signature")
			file(lock.KeyringInput, s.Tarball.Keyring, "kernel.source.tarball.keyring")
		}
	default:
		add(Wish{Name: lock.SourceInput, Kind: lock.Tree, Where: s.Tree, Field: "kernel.source.tree"})
	}
	for i, p := range r.Kernel.Fragments {
		file(lock.FragmentInput(p), p, fmt.Sprintf("kernel.fragments[%d]", i))
	}
	for i, p := range r.Kernel.Patches {
		file(lock.PatchInput(p), p, fmt.Sprintf("kernel.patches[%d]", i))
	}
	for i, p := range r.Kernel.External {
		add(Wish{Name: lock.ExternalInput(p), Kind: lock.Tree, Where: p, Field: fmt.Sprintf("kernel.external[%d]", i)})
	}
	if r.Kernel.ModuleKey != "" {
		file(lock.ModuleKeyInput, r.Kernel.ModuleKey, "kernel.module_key")
	}
	if !recipe.OwnAgent(r.Initrd.Agent) {
		file(lock.AgentInput, r.Initrd.Agent, "initrd.agent")
	}
	for i, f := range r.Initrd.Files {
		if f.From != "" {
			file(lock.FileInput(f.From), f.From, fmt.Sprintf("initrd.files[%d].from", i))
		}
	}
	if r.Rootfs != nil {
		if !recipe.OwnAgent(r.Rootfs.Agent) {
			file(lock.AgentInput, r.Rootfs.Agent, "rootfs.agent")
		}
		for i, l := range r.Rootfs.Layers {
			field := fmt.Sprintf("rootfs.layers[%d]", i)
			if d := l.Debian; d != nil {
				for j, p := range d.Debs {
					file(lock.DebInput(p), p, fmt.Sprintf("%s.debian.debs[%d]", field, j))
				}
				for j, a := range d.Archives {
					for _, f := range [][2]string{{a.Keyring, "keyring"}, {a.Sources, "sources"}} {
						if f[0] != "" {
							file(lock.ArchiveInput(f[0]), f[0],
								fmt.Sprintf("%s.debian.archives[%d].%s", field, j, f[1]))
						}
					}
				}
			}
			switch {
			case l.Tar != "":
				w := of(lock.TarInput(l.Tar), l.Tar, field+".tar")
				w.Tar = true
				add(w)
			case l.Folder != "":
				add(Wish{Name: lock.FolderInput(l.Folder), Kind: lock.Tree, Where: l.Folder, Field: field + ".folder"})
			case l.OCI != nil && l.OCI.Image != "":
				add(Wish{Name: lock.ImageInput(l.OCI.Image), Kind: lock.OCI, Where: l.OCI.Image,
					Field: field + ".oci.image"})
			case l.OCI != nil && l.OCI.Layout != "":
				add(Wish{Name: lock.FolderInput(l.OCI.Layout), Kind: lock.Tree, Where: l.OCI.Layout,
					Field: field + ".oci.layout"})
			case l.OCI != nil:
				file(lock.FileInput(l.OCI.Archive), l.OCI.Archive, field+".oci.archive")
			}
			for j, f := range l.Files {
				if f.From != "" {
					file(lock.FileInput(f.From), f.From, fmt.Sprintf("%s.files[%d].from", field, j))
				}
			}
		}
	}
	return out
}

// Set is a wish for packages with all they depend on.
type Set struct {
	Name  string // the set's in the lock: what is asked for, so that a layer in front of it changes nothing
	Field string // of the recipe, for people
	Deb   *recipe.DebianLayer
	Arch  string // dpkg's name of the packages' architecture
	Tools bool   // it is the tool-chain
}

// toolchainWish is what a kernel's tool-chain of a kind is made of on a host.
func toolchainWish(kind string, target, host arch.Arch) Set {
	return Set{
		Name: lock.ToolchainSet(kind, host.Debian, target.Debian), Field: "kernel.toolchain", Arch: host.Debian,
		Tools: true,
		Deb: &recipe.DebianLayer{Suites: []string{toolchain.Suite}, Components: []string{"main"},
			Packages: toolchain.Packages(kind, target, host)},
	}
}

// architectures are that of the guest and that of this machine.
func architectures(r *recipe.Recipe) (guest, host arch.Arch, err error) {
	if guest, err = arch.Parse(r.Arch); err != nil {
		return guest, host, err
	}
	host, err = arch.FromGo(runtime.GOARCH)
	return guest, host, err
}

// OtherToolchains are those that the recipe does not ask for here: of other machines, and of another kind. A lock may
// hold them too.
func OtherToolchains(r *recipe.Recipe) ([]Set, error) {
	if r.Extension {
		return nil, nil
	}
	guest, here, err := architectures(r)
	if err != nil {
		return nil, err
	}
	var out []Set
	for _, kind := range toolchain.Kinds() {
		for _, host := range arch.All() {
			if kind != toolchain.Host && (kind != r.Kernel.Toolchain || host.Name != here.Name) {
				out = append(out, toolchainWish(kind, guest, host))
			}
		}
	}
	return out, nil
}

// Sets lists every set of packages of a recipe, each once.
func Sets(r *recipe.Recipe) ([]Set, error) {
	guest, host, err := architectures(r)
	if err != nil {
		return nil, err
	}
	var out []Set
	if !r.Extension && r.Kernel.Toolchain != toolchain.Host {
		out = append(out, toolchainWish(r.Kernel.Toolchain, guest, host))
	}
	if r.Rootfs != nil {
		for i, l := range r.Rootfs.Layers {
			if l.Debian == nil {
				continue
			}
			name := lock.SetName(l.Debian.Asked())
			if !slices.ContainsFunc(out, func(w Set) bool { return w.Name == name }) {
				out = append(out, Set{Name: name, Field: fmt.Sprintf("rootfs.layers[%d].debian", i),
					Deb: l.Debian, Arch: guest.Debian})
			}
		}
	}
	return out, nil
}

// Answers says why a locked input is not what the wish asks for, or nothing when it is.
func (w Wish) Answers(in *lock.Input) string {
	switch {
	case in == nil:
		return "the lock does not hold it"
	case in.Kind != w.Kind:
		return fmt.Sprintf("the recipe wants it of kind %s, the lock holds kind %s", w.Kind, in.Kind)
	case w.Deb != nil && (in.Package.Name != w.Deb.Package || !slices.Contains(w.Deb.Suites, in.Package.Suite)):
		return fmt.Sprintf("the recipe wants package %s from %s, the lock holds %s from %s",
			w.Deb.Package, strings.Join(w.Deb.Suites, ", "), in.Package.Name, in.Package.Suite)
	case w.Deb == nil && in.Where != w.Where:
		return fmt.Sprintf("the recipe wants %s, the lock holds %s", w.Where, in.Where)
	}
	return ""
}

// StaleLock says that a lock does not fit its recipe. Locking it again is the way out.
type StaleLock struct {
	Path   string // of the lock
	Recipe string // the recipe's folder
	Arch   string // what it was to be for; empty is the recipe's own
	Why    string
}

func (e *StaleLock) Error() string {
	return fmt.Sprintf("%s does not fit the recipe: %s", e.Path, e.Why)
}

// Fits compares a lock with what its recipe asks for.
func Fits(l *lock.Lock, r *recipe.Recipe, lockPath string, c Config) error {
	stale := func(why string) error { return &StaleLock{lockPath, filepath.Dir(c.Recipe), c.Arch, why} }
	if l.Name != r.Name {
		return stale(fmt.Sprintf("it is for the guest %q, the recipe is called %q", l.Name, r.Name))
	}
	asked := map[string]bool{}
	for _, w := range Wishes(r) {
		asked[w.Name] = true
		if why := w.Answers(l.Find(w.Name)); why != "" {
			return stale(w.Name + ": " + why)
		}
	}
	sets, err := Sets(r)
	if err != nil {
		return err
	}
	for _, w := range sets {
		s := l.FindSet(w.Name)
		if w.Tools && (s == nil || s.Asked != w.Deb.Asked()) {
			return stale(fmt.Sprintf("it lacks the %s", w.Name))
		}
		if s == nil || s.Asked != w.Deb.Asked() {
			return stale(fmt.Sprintf("%s: the recipe asks for other packages (%s) than the lock holds", w.Field,
				strings.Join(w.Deb.Packages, " ")))
		}
		for _, name := range s.Inputs {
			asked[name] = true
		}
	}
	others, err := OtherToolchains(r)
	if err != nil {
		return err
	}
	more := 0
	for _, w := range others {
		if s := l.FindSet(w.Name); s != nil {
			more++
			for _, name := range s.Inputs {
				asked[name] = true
			}
		}
	}
	if len(l.Sets)-more != len(sets) {
		return stale(fmt.Sprintf("it holds %d sets of packages, the recipe asks for %d", len(l.Sets)-more, len(sets)))
	}
	for _, in := range l.Inputs {
		if !asked[in.Name] {
			return stale(in.Name + ": the recipe no longer asks for it")
		}
	}
	return nil
}

// NoLock says that a recipe has not been locked yet. Locking it is the way out.
type NoLock struct {
	Path   string // where the lock would be
	Recipe string // the recipe's folder
	Arch   string // what it was to be for; empty is the recipe's own
}

func (e *NoLock) Error() string { return "there is no lock at " + e.Path }

// Is makes a NoLock an fs.ErrNotExist.
func (e *NoLock) Is(target error) bool { return target == fs.ErrNotExist }
