package tasks

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"github.com/katabuild/katabuild/builder/execute"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/builder/toolroot"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// toolchainSet is what the lock has of the tool-chain that the recipe asks for on this machine; nil for the machine's
// own.
func (g *Guest) toolchainSet() (*lock.Set, error) {
	if g.Recipe.Kernel.Toolchain == toolchain.Host {
		return nil, nil
	}
	host, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	name := lock.ToolchainSet(g.Recipe.Kernel.Toolchain, host.Debian, g.Arch.Debian)
	s := g.Lock.FindSet(name)
	if s == nil {
		return nil, fmt.Errorf("the lock has no %s", name)
	}
	return s, nil
}

// toolchain is what the kernel is built with. That of packages has no root yet.
func (g *maker) toolchain(ctx context.Context) (toolchain.Toolchain, error) {
	set, err := g.toolchainSet()
	if err != nil {
		return toolchain.Toolchain{}, err
	}
	if set == nil {
		host, err := arch.FromGo(runtime.GOARCH)
		if err != nil {
			return toolchain.Toolchain{}, err
		}
		types, err := kernel.WantsTypes(g.Arch, g.Recipe.Kernel.Features)
		if err != nil {
			return toolchain.Toolchain{}, err
		}
		return toolchain.Find(ctx, toolchain.Options{Arch: g.Arch, Host: host, Dirs: g.ToolFolders, Types: types,
			Cache: g.Store.Private("tools")})
	}
	var packages []toolchain.Package
	for _, name := range set.Inputs {
		in := g.Input(name)
		packages = append(packages, toolchain.Package{Name: in.Package.Name, Version: in.Package.Version,
			Digest: in.Digest})
	}
	return toolchain.Pinned(g.Recipe.Kernel.Toolchain, g.Arch, packages), nil
}

// OpenToolchain unpacks the tool-chain of packages, or finds it unpacked. The caller calls done when no program of it
// runs any more.
func (g *Guest) OpenToolchain(ctx context.Context, t *toolchain.Toolchain, job execute.Job) (done func(), err error) {
	set, err := g.toolchainSet()
	if err != nil || set == nil {
		return func() {}, err
	}
	var key strings.Builder
	for _, name := range set.Inputs {
		fmt.Fprintln(&key, name, g.Input(name).Digest)
	}
	job.Report.Send(progress.Event{Kind: progress.Update, Message: "tool-chain"})
	t.Root, done, err = toolroot.Open(ctx, toolroot.Request{
		Dir: g.Store.Private(store.ToolsFolder), Key: digest.Of([]byte(key.String())), Links: toolchain.Links(),
		Packages: func(ctx context.Context) ([]string, error) { return g.bringPackages(ctx, set.Inputs, job) },
		Report: func(done, total int) {
			job.Report.Send(progress.Event{Kind: progress.Update, Message: "unpack the tool-chain",
				Current: int64(done), Total: int64(total), Unit: "packages"})
		},
	})
	if err != nil {
		return nil, fmt.Errorf("tool-chain: %w", err)
	}
	return done, nil
}
