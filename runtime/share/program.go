package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/runtime/child"
)

// programs are where distributions put virtiofsd.
var programs = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/qemu/virtiofsd",
	"/usr/bin/virtiofsd"}

// Program is a virtiofsd. There are two: QEMU's own in C, until QEMU 7.2, and its successor in Rust. Their options and
// abilities differ.
type Program struct {
	Path    string // absolute
	Rust    bool
	Version string // as it says itself; empty where it does not
	ACLs    bool   // it can keep access control lists

	// KillPriv: that it clears set-id bits of files that are written to has to be asked for. QEMU's own does it anyhow.
	KillPriv bool
}

// String is "PATH (Rust, VERSION)".
func (p Program) String() string {
	language := "QEMU's own in C"
	if p.Rust {
		language = "in Rust"
	}
	return strings.TrimSuffix(fmt.Sprintf("%s (%s, %s", p.Path, language, p.Version), ", ") + ")"
}

// helpTime bounds asking a virtiofsd which of the two it is.
const helpTime = 5 * time.Second

// versionIn finds the version in what a virtiofsd prints: "virtiofsd 1.13.2", "virtiofsd backend 1.4.0", "virtiofsd
// version 7.2.22 (Debian ...)".
var versionIn = regexp.MustCompile(`^virtiofsd (?:version |backend )?([0-9]+(?:\.[0-9]+)*)`)

// Identify makes a Program of what the one at a path prints when it is asked for its help and its version.
func Identify(path string, help, version []byte) Program {
	p := Program{Path: path, Rust: strings.Contains(string(help), "--shared-dir")}
	if m := versionIn.FindSubmatch(version); m != nil {
		p.Version = string(m[1])
	}
	p.KillPriv = strings.Contains(string(help), "--killpriv-v2")
	p.ACLs = strings.Contains(string(help), "-posix-acl") || strings.Contains(string(help), "posix_acl")
	return p
}

// Ask has the virtiofsd at a path say what it is.
func Ask(ctx context.Context, path string) (Program, error) {
	ctx, cancel := context.WithTimeout(ctx, helpTime)
	defer cancel()
	var said [2][]byte
	for i, word := range []string{"--help", "--version"} {
		// Either prints its help and succeeds; what it prints tells which it is.
		out, err := exec.CommandContext(ctx, path, word).CombinedOutput()
		if errors.Is(err, os.ErrNotExist) {
			return Program{}, &child.MissingError{Program: path}
		}
		if err != nil && len(out) == 0 {
			return Program{}, fmt.Errorf("%s %s: %w", path, word, err)
		}
		said[i] = out
	}
	return Identify(path, said[0], said[1]), nil
}

// FindProgram is the first of Programs that is in Rust; where there is none, the first that exists.
func FindProgram(ctx context.Context) (Program, error) { return firstOf(ctx, programs) }

func firstOf(ctx context.Context, paths []string) (Program, error) {
	var first Program
	var errs []error
	for _, path := range paths {
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
			continue
		}
		p, err := Ask(ctx, path)
		switch {
		case err != nil:
			errs = append(errs, err)
		case p.Rust:
			return p, nil
		case first.Path == "":
			first = p
		}
	}
	if first.Path != "" {
		return first, nil
	}
	return Program{}, errors.Join(append([]error{&child.MissingError{Program: "virtiofsd"}}, errs...)...)
}

// The oldest virtiofsd in Rust that docs/files.md is about.
const knownMajor, knownMinor = 1, 13

// Limits are what programs in the guest cannot have of the files that a virtiofsd serves, one sentence each.
// docs/files.md has all that is known.
func (p Program) Limits() []string {
	if !p.Rust {
		out := []string{
			"what is written through a shared mapping of a file that was opened with O_APPEND is appended to the " +
				"file, and lost where it belongs",
			"O_APPEND stays on a file that was opened with it, also when a program takes it away",
			"a supplementary group, and so a pod's fsGroup, gives no right to make files in a folder",
		}
		if !p.ACLs {
			out = append(out, "access control lists are not kept")
		}
		return out
	}
	major, minor, _ := strings.Cut(p.Version, ".")
	minor, _, _ = strings.Cut(minor, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || a < knownMajor || a == knownMajor && b < knownMinor {
		return []string{fmt.Sprintf("it is older than version %d.%d; what it cannot do has not been tried",
			knownMajor, knownMinor)}
	}
	return nil
}

// LimitOfLocks is what is so whoever serves the files.
const LimitOfLocks = "locks of programs do not exclude the host's own programs, containers that are not in a guest, " +
	"and other hosts; between pods see foreign_locks"

// Limits9P is likewise for files that QEMU serves by 9p.
var Limits9P = []string{
	"what is written through a shared mapping of a file that was opened with O_APPEND is appended to the file, and " +
		"lost where it belongs",
	"inotify tells nothing of a file that is made or written to",
	"a time that is set has whole seconds",
	"access control lists are not kept, and those that the host has set do not count",
}
