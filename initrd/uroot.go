package initrd

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
)

// The module that pins u-root. uroot/README.md tells how to change it.
var (
	//go:embed uroot/go.mod.txt
	urootMod []byte
	//go:embed uroot/go.sum.txt
	urootSum []byte
	//go:embed uroot/tools.go.txt
	urootTools []byte
)

const (
	urootModule = "github.com/u-root/u-root"
	urootPrefix = urootModule + "/cmds/core/"
	makebb      = "github.com/u-root/gobusybox/src/cmd/makebb"
	bbPackage   = "src/bb.u-root.com/bb" // where makebb puts the merged program, below its output folder
	bbName      = "bb"                   // its name in the guest
	shell       = "gosh"                 // u-root's shell; /bin/sh leads to it
	// urootTags picks, of the line editors that gosh can have, the one that works on a serial line: its default asks
	// the terminal what it is and waits for an answer.
	urootTags = "goshliner"
)

// Go is the Go tool-chain of this machine.
type Go struct {
	// Path of the go program. Empty means that this machine has none.
	Path string
	// Env is the environment to run it in: HOME, PATH, GOPROXY, GOCACHE and so on. Whatever in it could change what is
	// built is set aside.
	Env []string
}

// errNoGo says that URoot was asked for on a machine without the Go tool-chain.
var errNoGo = errors.New("u-root commands are built with the Go tool-chain, and this machine has none")

// Commands lists the u-root commands that URoot may name, sorted.
func Commands() []string {
	var names []string
	for line := range strings.Lines(string(urootTools)) {
		if _, rest, ok := strings.Cut(line, `"`+urootPrefix); ok {
			names = append(names, strings.TrimSuffix(strings.TrimSpace(rest), `"`))
		}
	}
	slices.Sort(names)
	return names
}

// FetchURoot brings the modules that URoot needs into Go's module cache, where Build finds them. It is all that uses a
// network here. Only what go.sum.txt lists by digest is accepted.
func FetchURoot(ctx context.Context, g Go, workDir string) error {
	dir, err := writeModule(workDir)
	if err != nil {
		return err
	}
	return g.run(ctx, dir, nil, "mod", "download", "all")
}

// URoot is commands of u-root, built for a guest. Everything is needed.
type URoot struct {
	Arch     arch.Arch
	Commands []string // by name, in any order
	Go       Go
	WorkDir  string // for what is needed while it builds, and the program; not part of the bytes
}

// URootVersion is the version of u-root that Build takes, such as v0.16.0.
func URootVersion() string {
	for line := range strings.Lines(string(urootMod)) {
		if _, version, ok := strings.Cut(strings.TrimSpace(line), urootModule+" "); ok {
			return version
		}
	}
	return ""
}

// Inputs is what decides the bytes of the commands.
func (r URoot) Inputs() ([]artifact.Input, error) {
	if err := checkCommands(r.Commands); err != nil {
		return nil, err
	}
	version, err := r.Go.output(context.Background(), "", "env", "GOVERSION")
	if err != nil {
		return nil, err
	}
	return []artifact.Input{
		{Name: "u-root commands", Value: strings.Join(sorted(r.Commands), " ") + " (" + urootTags + ")"},
		{Name: "u-root modules", Value: string(digest.Of(slices.Concat(urootMod, []byte{0}, urootSum, []byte{0},
			urootTools)))},
		{Name: "tool go", Value: strings.TrimSpace(string(version))},
	}, nil
}

func checkCommands(names []string) error {
	known := Commands()
	for _, c := range names {
		if !slices.Contains(known, c) {
			return fmt.Errorf("initrd: u-root has no command %q here (known: %s)", c, strings.Join(known, " "))
		}
	}
	return nil
}

func sorted(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// Build makes one program of all commands and returns it with a link for each. It needs FetchURoot before.
//
// makebb would also compile, always anew; left to the go command itself, a second build takes what the first compiled.
func (r URoot) Build(ctx context.Context) ([]File, error) {
	if err := checkCommands(r.Commands); err != nil {
		return nil, err
	}
	names := sorted(r.Commands)
	dir, err := writeModule(r.WorkDir)
	if err != nil {
		return nil, err
	}
	makebbPath, generated, bb := filepath.Join(dir, "makebb"), filepath.Join(dir, "generated"),
		filepath.Join(dir, bbName)
	if err := r.Go.run(ctx, dir, []string{"GOPROXY=off"}, "build", "-o", makebbPath, makebb); err != nil {
		return nil, fmt.Errorf("%w (were its modules fetched?)", err)
	}
	if err := os.RemoveAll(generated); err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	args := []string{"-g", "-gen-dir", generated, "-go-build-tags", urootTags, "-o", bb}
	for _, c := range names {
		args = append(args, urootPrefix+c)
	}
	// The files that makebb generates do not depend on the processor, but the choice of files it reads does.
	target := []string{"GOPROXY=off", "GOOS=linux", "GOARCH=" + r.Arch.Go}
	if err := r.Go.command(ctx, makebbPath, dir, target, args...); err != nil {
		return nil, err
	}
	// Without modules, as the generated tree is a GOPATH. Paths, version control and build ids stay out of the binary.
	target = append(target, "GO111MODULE=off", "GOFLAGS=", "GOPATH="+generated)
	if err := r.Go.run(ctx, filepath.Join(generated, bbPackage), target, "build", "-tags", urootTags, "-trimpath",
		"-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", bb, "."); err != nil {
		return nil, err
	}
	d, _, err := digest.File(bb)
	if err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	return URootFiles(names, bb, d), nil
}

// URootFiles is the program, which lies at bb on this machine, and its links under /bin: what Build returns of these
// commands.
func URootFiles(names []string, bb string, d digest.Digest) []File {
	files := []File{{Path: "/bin/" + bbName, Source: bb, Digest: d, Mode: new(uint32(0o755))}}
	for _, c := range sorted(names) {
		files = append(files, File{Path: "/bin/" + c, Kind: Symlink, Target: bbName})
		if c == shell {
			files = append(files, File{Path: "/bin/sh", Kind: Symlink, Target: shell})
		}
	}
	return files
}

// writeModule writes the pinned module below workDir and returns its folder.
func writeModule(workDir string) (string, error) {
	if workDir == "" {
		return "", errors.New("initrd: u-root commands need a work folder")
	}
	dir, err := filepath.Abs(filepath.Join(workDir, "uroot"))
	if err != nil {
		return "", fmt.Errorf("initrd: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("initrd: %w", err)
	}
	for name, data := range map[string][]byte{"go.mod": urootMod, "go.sum": urootSum, "tools.go": urootTools} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", fmt.Errorf("initrd: %w", err)
		}
	}
	return dir, nil
}

// deciding are the variables of the environment that change what Go builds; ours take their place. GOENV is a file of
// such variables.
var deciding = []string{
	"CGO_ENABLED=0", "GOENV=off", "GOEXPERIMENT=", "GOFLAGS=-mod=readonly", "GOTOOLCHAIN=local", "GOWORK=off",
	"GO111MODULE=on", "GODEBUG=",
	"GOAMD64=v1", "GOARM64=v8.0", "GOPPC64=power8", "GORISCV64=rva20u64", "GOFIPS140=off", "GOOS=", "GOARCH=",
}

// environ is Env, then what decides, then more. Of a name that comes twice, the later value counts.
func (g Go) environ(more []string) []string {
	env := slices.Clone(g.Env)
	for i, e := range env { // makebb looks for the go command by itself, and shall find this one
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			env[i] = "PATH=" + filepath.Dir(g.Path) + string(filepath.ListSeparator) + p
		}
	}
	return slices.Concat(env, deciding, more)
}

func (g Go) run(ctx context.Context, dir string, env []string, args ...string) error {
	if g.Path == "" {
		return fmt.Errorf("initrd: %w", errNoGo)
	}
	return g.command(ctx, g.Path, dir, env, args...)
}

func (g Go) output(ctx context.Context, dir string, args ...string) ([]byte, error) {
	if g.Path == "" {
		return nil, fmt.Errorf("initrd: %w", errNoGo)
	}
	cmd := exec.CommandContext(ctx, g.Path, args...)
	cmd.Dir, cmd.Env = dir, g.environ(nil)
	out, err := cmd.Output()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("initrd: %s: %w", g.Path, errNoGo)
	}
	if err != nil {
		return nil, fmt.Errorf("initrd: %s: %w", cmd, err)
	}
	return out, nil
}

// command runs a program in dir. What it printed becomes part of the error when it fails.
func (g Go) command(ctx context.Context, program, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = dir, g.environ(append([]string{"PWD=" + dir}, env...))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	switch err := cmd.Run(); {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("initrd: %s: %w", program, errNoGo)
	case err != nil:
		return fmt.Errorf("initrd: cd %s && %s: %w\n%s", dir, cmd, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}
