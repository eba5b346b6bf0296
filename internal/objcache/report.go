package objcache

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Object is one object of a build.
type Object struct {
	Name   string        // as the compiler was told, below the tree
	Cached bool          // it was in the cache
	CPU    time.Duration // processor time that compiling it took, now or when it was put into the cache
	Bytes  int64         // what of it comes into memory with the program; 0 where it is no ELF file
}

// line is how a report names an object.
func (o Object) line() string {
	how := "made"
	if o.Cached {
		how = "cached"
	}
	return fmt.Sprintf("%s %d %d %s\n", how, o.CPU.Microseconds(), o.Bytes, strings.ReplaceAll(o.Name, "\n", " "))
}

// maxReport is how many objects are read of a report: all of Linux 6.12 has 30,000.
const maxReport = 200_000

// ReadReport reads what a Server reported. Lines that none writes are left out: the tree's programs could write them.
func ReadReport(r io.Reader) []Object {
	var all []Object
	s := bufio.NewScanner(r)
	for s.Scan() && len(all) < maxReport {
		how, rest, _ := strings.Cut(s.Text(), " ")
		cpu, rest, _ := strings.Cut(rest, " ")
		size, name, ok := strings.Cut(rest, " ")
		us, err1 := strconv.ParseUint(cpu, 10, 40)
		bytes, err2 := strconv.ParseUint(size, 10, 40)
		if !ok || err1 != nil || err2 != nil || how != "made" && how != "cached" || !isName(name) {
			continue
		}
		all = append(all, Object{Name: name, Cached: how == "cached", CPU: time.Duration(us) * time.Microsecond,
			Bytes: int64(bytes)})
	}
	return all
}

// sizeOf is what of an object comes into memory with the program that it is linked into, code, data and what begins as
// zeroes, in bytes. Linux drops sections called .discard when it links (include/asm-generic/vmlinux.lds.h).
func sizeOf(object []byte) int64 {
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return 0
	}
	var n uint64
	for _, s := range f.Sections {
		if s.Flags&elf.SHF_ALLOC != 0 && !strings.HasPrefix(s.Name, ".discard") && s.Size <= maxObject {
			n += s.Size
		}
	}
	return int64(min(n, maxObject))
}

// isName says whether a name can be shown to people as it is.
func isName(s string) bool {
	return s != "" && len(s) <= 4096 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
