package objcache

import (
	"bufio"
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
}

// line is how a report names an object.
func (o Object) line() string {
	how := "made"
	if o.Cached {
		how = "cached"
	}
	return fmt.Sprintf("%s %d %s\n", how, o.CPU.Microseconds(), strings.ReplaceAll(o.Name, "\n", " "))
}

// maxReport is how many objects are read of a report: all of Linux 6.12 has 30,000.
const maxReport = 200_000

// ReadReport reads what a Server reported. Lines that none writes are left out: the tree's programs could write them.
func ReadReport(r io.Reader) []Object {
	var all []Object
	s := bufio.NewScanner(r)
	for s.Scan() && len(all) < maxReport {
		how, rest, _ := strings.Cut(s.Text(), " ")
		cpu, name, ok := strings.Cut(rest, " ")
		us, err := strconv.ParseUint(cpu, 10, 40)
		if !ok || err != nil || how != "made" && how != "cached" || !isName(name) {
			continue
		}
		all = append(all, Object{Name: name, Cached: how == "cached", CPU: time.Duration(us) * time.Microsecond})
	}
	return all
}

// isName says whether a name can be shown to people as it is.
func isName(s string) bool {
	return s != "" && len(s) <= 4096 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
