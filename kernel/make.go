package kernel

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel/makelog"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// guestDir holds, in the jail, what WorkDir holds outside. Nobody may write to the folder itself: the foreign programs
// of a tree can change the tree, and the folder that modules are installed into, but not the settings beside them, nor
// replace any of the three by a link.
const guestDir = jail.Home

// builtBy is the builder and the host that the kernel names.
const builtBy = "katabuild"

// timestamp is how date(1) writes a time in the C locale, which the kernel prints in uname -v.
func timestamp(t time.Time) string { return t.UTC().Format("Mon Jan _2 15:04:05 UTC 2006") }

// environment fixes everything that would otherwise differ between two machines.
func (r Request) environment() []string {
	return []string{
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(r.Time.Unix(), 10),
		"KBUILD_BUILD_TIMESTAMP=" + timestamp(r.Time),
		"KBUILD_BUILD_USER=" + builtBy,
		"KBUILD_BUILD_HOST=" + builtBy,
		"KBUILD_BUILD_VERSION=1",
		// No byte depends on this one. The compiler's heap in huge pages spares it page faults and 6 % of its processor
		// time. glibc 2.35 or later; others ignore it.
		"GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
	}
}

// makeArgs is the command line of one make.
func (r Request) makeArgs(args ...string) []string {
	jobs := max(1, r.Jobs)
	all := []string{"make", "-C", guestDir + "/" + treeName, "-j" + strconv.Itoa(jobs), "--no-print-directory",
		"ARCH=" + r.Arch.Linux}
	if jobs > 1 {
		all = append(all, "--output-sync=target") // an error's lines stay together
	}
	if r.Toolchain.Prefix != "" {
		all = append(all, "CROSS_COMPILE="+r.Toolchain.Prefix)
	}
	if r.Toolchain.Kind == toolchain.LLVM {
		all = append(all, "LLVM=1")
	}
	// The build's own programs live for minutes: compiling them faster saves more than it costs.
	all = append(all, "HOSTCFLAGS=-O1")
	// What the configuration would otherwise ask the machine for, and write its version down: programs that no
	// tool-chain of ours has, and one that makes types of the kernel, where nobody has asked for them. Its output does
	// not depend on how many threads it has: Linux tells it so as there is a KBUILD_BUILD_TIMESTAMP
	// (scripts/Makefile.btf), and a version before 1.27 gets one thread.
	pahole := "none"
	if types, _ := WantsTypes(r.Arch, r.Features); types { // Build has resolved the names
		pahole = "pahole"
	}
	all = append(all, "PAHOLE="+pahole, "RUSTC=none", "BINDGEN=none")
	return append(all, args...)
}

// make runs the kernel's make in the jail.
func (b *build) make(ctx context.Context, args ...string) error {
	w := &makelog.Watcher{Log: b.Log, Seen: b.seen}
	argv := b.makeArgs(args...)
	u, err := jail.Command{
		Args:   append(slices.Clone(b.cacheArgs), argv...),
		Env:    b.environment(),
		Root:   b.Toolchain.Root,
		Binds:  append(slices.Clone(b.binds), b.cacheBinds...),
		Stdout: w, Stderr: w,
	}.Run(ctx)
	b.cpu += u.CPU
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &makeError{Args: argv, Lines: w.Blame(), Err: err}
	}
	return nil
}

// seen counts a compiled file and tells whoever watches.
func (b *build) seen(verb, name string) {
	switch verb {
	case "CC", "AS", "HOSTCC", "HOSTLD", "CC [M]":
		b.objects++
	case "LD", "OBJCOPY", "KSYMS", "BUILD", "SORTTAB", "ZSTD22", "MODPOST":
		// Not the small images that are built into it, such as the vDSO. What comes after vmlinux is little: it stays
		// "link" to the end.
		if strings.HasPrefix(name, "vmlinux") || strings.HasPrefix(name, ".tmp_vmlinux") {
			b.phase("link")
		}
		return
	default:
		return
	}
	total := int64(b.Objects)
	if total < int64(b.objects) {
		total = 0
	}
	if now := time.Now(); b.current == "compile" && now.Sub(b.lastSeen) > 100*time.Millisecond {
		b.lastSeen = now
		b.Progress.Send(progress.Event{Step: step, Kind: progress.Update, Message: "compile",
			Current: int64(b.objects), Total: total, Unit: "objects"})
	}
}

// makeError is a make that failed.
type makeError struct {
	Args  []string
	Lines []string // what it said about why, at most a dozen lines
	Err   error
}

func (e *makeError) Error() string {
	s := fmt.Sprintf("%s: %v", strings.Join(e.Args[slices.Index(e.Args, "--no-print-directory")+1:], " "), e.Err)
	if e.Err != nil {
		if x, ok := e.Err.(*jail.ExitError); ok && x.Signal == 0 {
			s = fmt.Sprintf("make %s: exit code %d", strings.Join(e.Args[len(e.Args)-1:], " "), x.Code)
		}
	}
	for _, l := range e.Lines {
		s += "\n\t" + l
	}
	return s
}

func (e *makeError) Unwrap() error { return e.Err }
