package builder

import (
	"fmt"
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

// wish is one input a recipe asks for, before it is pinned.
type wish struct {
	name  string // the input's name in the lock
	kind  string
	where string // an address or a path relative to the recipe
	deb   *recipe.Debian
	field string // of the recipe that asks for it, for errors
	tar   bool   // it has to be a tar
}

// packageInput is the lock's name for a package of an archive: whichever layer asks for it, it is the same.
func packageInput(p *debian.Package) string {
	name := fmt.Sprintf("debian package %s %s %s", p.Name, p.Version, p.Arch)
	if p.Source.Archive != "" {
		name += " of " + p.Source.Archive
	}
	return name
}

// wishes lists every input of a recipe, each once.
func wishes(r *recipe.Recipe) []wish {
	var out []wish
	seen := map[string]bool{}
	add := func(w wish) {
		if !seen[w.name] {
			seen[w.name] = true
			out = append(out, w)
		}
	}
	of := func(name, where, field string) wish {
		kind := lock.Local
		if recipe.IsURL(where) {
			kind = lock.URL
		}
		return wish{name: name, kind: kind, where: where, field: field}
	}
	file := func(name, where, field string) { add(of(name, where, field)) }
	switch s := r.Kernel.Source; {
	case r.Extension: // has no kernel
	case s.Debian != nil:
		add(wish{name: lock.SourceInput, kind: lock.Debian, deb: s.Debian, field: "kernel.source.debian"})
	case s.Tarball != nil:
		w := of(lock.SourceInput, s.Tarball.From, "kernel.source.tarball.from")
		w.tar = true
		add(w)
		if s.Tarball.Signature != "" {
			file(lock.SignatureInput, s.Tarball.Signature, "kernel.source.tarball.signature")
			file(lock.KeyringInput, s.Tarball.Keyring, "kernel.source.tarball.keyring")
		}
	default:
		add(wish{name: lock.SourceInput, kind: lock.Tree, where: s.Tree, field: "kernel.source.tree"})
	}
	for i, p := range r.Kernel.Fragments {
		file(lock.FragmentInput(p), p, fmt.Sprintf("kernel.fragments[%d]", i))
	}
	for i, p := range r.Kernel.Patches {
		file(lock.PatchInput(p), p, fmt.Sprintf("kernel.patches[%d]", i))
	}
	for i, p := range r.Kernel.External {
		add(wish{name: lock.ExternalInput(p), kind: lock.Tree, where: p, field: fmt.Sprintf("kernel.external[%d]", i)})
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
				w.tar = true
				add(w)
			case l.Folder != "":
				add(wish{name: lock.FolderInput(l.Folder), kind: lock.Tree, where: l.Folder, field: field + ".folder"})
			case l.OCI != nil && l.OCI.Image != "":
				add(wish{name: lock.ImageInput(l.OCI.Image), kind: lock.OCI, where: l.OCI.Image,
					field: field + ".oci.image"})
			case l.OCI != nil && l.OCI.Layout != "":
				add(wish{name: lock.FolderInput(l.OCI.Layout), kind: lock.Tree, where: l.OCI.Layout,
					field: field + ".oci.layout"})
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

// setWish is a wish for packages with all they depend on.
type setWish struct {
	name  string // the set's in the lock: what is asked for, so that a layer in front of it changes nothing
	field string // of the recipe, for people
	deb   *recipe.DebianLayer
	arch  string // dpkg's name of the packages' architecture
	tools bool   // it is the tool-chain
}

// toolchainWish is what a kernel's tool-chain of a kind is made of on a host.
func toolchainWish(kind string, target, host arch.Arch) setWish {
	return setWish{
		name: lock.ToolchainSet(kind, host.Debian, target.Debian), field: "kernel.toolchain", arch: host.Debian,
		tools: true,
		deb: &recipe.DebianLayer{Suites: []string{toolchain.Suite}, Components: []string{"main"},
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

// otherToolchains are those that the recipe does not ask for here: of other machines, and of another kind. A lock may
// hold them too.
func otherToolchains(r *recipe.Recipe) ([]setWish, error) {
	if r.Extension {
		return nil, nil
	}
	guest, here, err := architectures(r)
	if err != nil {
		return nil, err
	}
	var out []setWish
	for _, kind := range toolchain.Kinds() {
		for _, host := range arch.All() {
			if kind != toolchain.Host && (kind != r.Kernel.Toolchain || host.Name != here.Name) {
				out = append(out, toolchainWish(kind, guest, host))
			}
		}
	}
	return out, nil
}

// setWishes lists every set of packages of a recipe, each once.
func setWishes(r *recipe.Recipe) ([]setWish, error) {
	guest, host, err := architectures(r)
	if err != nil {
		return nil, err
	}
	var out []setWish
	if !r.Extension && r.Kernel.Toolchain != toolchain.Host {
		out = append(out, toolchainWish(r.Kernel.Toolchain, guest, host))
	}
	if r.Rootfs != nil {
		for i, l := range r.Rootfs.Layers {
			if l.Debian == nil {
				continue
			}
			name := lock.SetName(l.Debian.Asked())
			if !slices.ContainsFunc(out, func(w setWish) bool { return w.name == name }) {
				out = append(out, setWish{name: name, field: fmt.Sprintf("rootfs.layers[%d].debian", i),
					deb: l.Debian, arch: guest.Debian})
			}
		}
	}
	return out, nil
}

// answers says why a locked input is not what the wish asks for, or nothing when it is.
func (w wish) answers(in *lock.Input) string {
	switch {
	case in == nil:
		return "the lock does not hold it"
	case in.Kind != w.kind:
		return fmt.Sprintf("the recipe wants it of kind %s, the lock holds kind %s", w.kind, in.Kind)
	case w.deb != nil && (in.Package.Name != w.deb.Package || !slices.Contains(w.deb.Suites, in.Package.Suite)):
		return fmt.Sprintf("the recipe wants package %s from %s, the lock holds %s from %s",
			w.deb.Package, strings.Join(w.deb.Suites, ", "), in.Package.Name, in.Package.Suite)
	case w.deb == nil && in.Where != w.where:
		return fmt.Sprintf("the recipe wants %s, the lock holds %s", w.where, in.Where)
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

// fits compares a lock with what its recipe asks for.
func fits(l *lock.Lock, r *recipe.Recipe, lockPath string, c Config) error {
	stale := func(why string) error { return &StaleLock{lockPath, filepath.Dir(c.Recipe), c.Arch, why} }
	if l.Name != r.Name {
		return stale(fmt.Sprintf("it is for the guest %q, the recipe is called %q", l.Name, r.Name))
	}
	asked := map[string]bool{}
	for _, w := range wishes(r) {
		asked[w.name] = true
		if why := w.answers(l.Find(w.name)); why != "" {
			return stale(w.name + ": " + why)
		}
	}
	sets, err := setWishes(r)
	if err != nil {
		return err
	}
	for _, w := range sets {
		s := l.FindSet(w.name)
		if w.tools && (s == nil || s.Asked != w.deb.Asked()) {
			return stale(fmt.Sprintf("it lacks the %s", w.name))
		}
		if s == nil || s.Asked != w.deb.Asked() {
			return stale(fmt.Sprintf("%s: the recipe asks for other packages (%s) than the lock holds", w.field,
				strings.Join(w.deb.Packages, " ")))
		}
		for _, name := range s.Inputs {
			asked[name] = true
		}
	}
	others, err := otherToolchains(r)
	if err != nil {
		return err
	}
	more := 0
	for _, w := range others {
		if s := l.FindSet(w.name); s != nil {
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
