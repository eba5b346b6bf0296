// Package measure collects what the running guest says of itself: the report, and what a host asks before it makes a
// sandbox.
//
// It reads proc, sysfs and the agent's own binary, changes nothing, and judges nothing.
package measure

import (
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/timeline"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/elfnote"
	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/report"
)

// maxConfig bounds the unpacked kernel configuration, in bytes; real ones have 300,000.
const maxConfig = 16 << 20

// Guest is the guest that is measured. Root and Timeline are needed; the zero value of the rest is what a guest has.
type Guest struct {
	Version  string // of the agent
	PID1     bool   // the agent is the init
	Timeline *timeline.Timeline
	Root     string // where proc and sys are found: "/", or a test's folder
	// Extensions are what the agent has mounted, sorted by name. The report says what is there now.
	Extensions []extension.Extension

	// Before is what Ahead gave the program that executed this one in its place; empty is nothing.
	Before string

	once   sync.Once // the slow part, done when first asked for: see facts
	facts  facts
	failed error
}

// facts do not change while the agent runs and take long to find out.
type facts struct {
	exe    digest.Digest
	config digest.Digest
}

func (g *Guest) path(p string) string { return filepath.Join(g.Root, p) }

// Report is the encoded report for a nonce, with what became of probes.
func (g *Guest) Report(nonce []byte, probes []report.Probe) ([]byte, error) {
	g.once.Do(func() { g.facts, g.failed = g.collectFacts() })
	if g.failed != nil {
		return nil, g.failed
	}
	k, err := g.kernel()
	if err != nil {
		return nil, err
	}
	root, err := g.root()
	if err != nil {
		return nil, err
	}
	extensions, err := g.extensions()
	if err != nil {
		return nil, err
	}
	modules, err := g.modules()
	if err != nil {
		return nil, err
	}
	who := report.Init{Kind: "agent"}
	if !g.PID1 {
		name, err := os.ReadFile(g.path("proc/1/comm"))
		if err != nil {
			return nil, fmt.Errorf("name of the init: %w", err)
		}
		who.Kind = strings.TrimSuffix(string(name), "\n")
	}
	r := report.Report{
		Version:    report.Version,
		Nonce:      hex.EncodeToString(nonce),
		Kernel:     k,
		Agent:      g.agent(),
		Init:       who,
		Root:       root,
		Extensions: extensions,
		Probes:     probes,
		Modules:    modules,
		End:        report.Done,
	}
	for _, m := range g.Timeline.Moments() {
		r.Timeline = append(r.Timeline, report.Moment{Name: m.Name, AtNS: int64(m.At)})
	}
	return r.Encode()
}

// collectFacts takes the facts of the program that executed this one, where this is the same file, or finds them.
func (g *Guest) collectFacts() (facts, error) {
	file, err := g.exe()
	if err != nil {
		return facts{}, err
	}
	if f, of := readFacts(g.Before); of == file {
		return f, nil
	}
	exe, _, err := digest.File(g.path("proc/self/exe"))
	if err != nil {
		return facts{}, fmt.Errorf("digest of the agent: %w", err)
	}
	config, err := configDigest(g.path("proc/config.gz"))
	if err != nil {
		return facts{}, fmt.Errorf("digest of the kernel's configuration: %w", err)
	}
	return facts{exe, config}, nil
}

// Ahead finds what takes longest of a report, and returns it for the Guest of a program that this one executes in its
// place. There it stands for as long as that is the same file, unchanged; the kernel's configuration never changes.
func (g *Guest) Ahead() (string, error) {
	f, err := g.collectFacts()
	if err != nil {
		return "", err
	}
	file, err := g.exe()
	if err != nil {
		return "", err
	}
	return strings.Join([]string{file, string(f.exe), string(f.config)}, " "), nil
}

// readFacts reads what Ahead wrote, and of which file. What is not of its form is of none.
func readFacts(text string) (f facts, of string) {
	words := strings.Split(text, " ")
	if len(words) != 3 {
		return facts{}, ""
	}
	exe, err := digest.Parse(words[1])
	if err != nil {
		return facts{}, ""
	}
	f.exe = exe
	if words[2] != "" { // a kernel that keeps its configuration
		if f.config, err = digest.Parse(words[2]); err != nil {
			return facts{}, ""
		}
	}
	return f, words[0]
}

// exe says which file the program is: device, inode, size, and when its content and its inode were last changed.
func (g *Guest) exe() (string, error) {
	var s unix.Stat_t
	if err := unix.Stat(g.path("proc/self/exe"), &s); err != nil {
		return "", fmt.Errorf("the agent's file: %w", err)
	}
	return fmt.Sprintf("%d:%d:%d:%d:%d", s.Dev, s.Ino, s.Size, unix.TimespecToNsec(s.Mtim),
		unix.TimespecToNsec(s.Ctim)), nil
}

// configDigest is that of the file unpacked, or empty when there is none.
func configDigest(path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return "", err
	}
	d, n, err := digest.Reader(io.LimitReader(z, maxConfig+1))
	if err != nil {
		return "", err
	}
	if n > maxConfig {
		return "", fmt.Errorf("%s unpacks to more than %d bytes", path, maxConfig)
	}
	return d, nil
}

func (g *Guest) kernel() (report.Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return report.Kernel{}, fmt.Errorf("uname: %w", err)
	}
	line, err := os.ReadFile(g.path("proc/cmdline"))
	if err != nil {
		return report.Kernel{}, fmt.Errorf("kernel command line: %w", err)
	}
	k := report.Kernel{
		Release:     unix.ByteSliceToString(u.Release[:]),
		Version:     unix.ByteSliceToString(u.Version[:]),
		Machine:     unix.ByteSliceToString(u.Machine[:]),
		Config:      g.facts.config,
		CommandLine: strings.TrimSuffix(string(line), "\n"),
	}
	notes, err := os.ReadFile(g.path("sys/kernel/notes"))
	switch {
	case errors.Is(err, fs.ErrNotExist): // a kernel linked without notes has no build-id either
	case err != nil:
		return report.Kernel{}, fmt.Errorf("notes of the kernel: %w", err)
	default:
		read, err := elfnote.Parse(notes, binary.NativeEndian)
		if k.BuildID = read.BuildID(); k.BuildID == "" && err != nil {
			return report.Kernel{}, fmt.Errorf("notes of the kernel: %w", err)
		}
	}
	return k, nil
}

func (g *Guest) agent() report.Agent {
	a := report.Agent{Digest: g.facts.exe, Version: g.Version, Settings: []report.Setting{}}
	// The name the kernel has for the file; where it cannot be read the digest still says which file it was.
	a.Path, _ = os.Readlink(g.path("proc/self/exe"))
	if b, ok := debug.ReadBuildInfo(); ok {
		a.Go = b.GoVersion
		for _, s := range b.Settings {
			a.Settings = append(a.Settings, report.Setting{Key: s.Key, Value: s.Value})
		}
		slices.SortFunc(a.Settings, func(x, y report.Setting) int { return strings.Compare(x.Key, y.Key) })
	}
	return a
}

func (g *Guest) modules() ([]string, error) {
	b, err := os.ReadFile(g.path("proc/modules"))
	if errors.Is(err, fs.ErrNotExist) { // a kernel without modules
		return []string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	names := []string{}
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, strings.TrimSuffix(name, "\n"))
	}
	slices.Sort(names)
	return names, nil
}

// MemoryBlockSize is the granularity of memory hotplug in bytes, 0 where the kernel has no memory blocks.
func (g *Guest) MemoryBlockSize() (uint64, error) {
	b, err := os.ReadFile(g.path("sys/devices/system/memory/block_size_bytes"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("size of memory blocks: %w", err)
	}
	// Documentation/ABI/testing/sysfs-devices-memory: hexadecimal
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("size of memory blocks: %w", err)
	}
	return n, nil
}

// MemoryProbe says whether the kernel wants plugged memory to be announced.
func (g *Guest) MemoryProbe() bool {
	_, err := os.Lstat(g.path("sys/devices/system/memory/probe"))
	return err == nil
}
