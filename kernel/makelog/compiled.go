package makelog

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Compiled is what a build compiled, or took from the cache.
type Compiled struct {
	Object string        // its file, below the tree
	Cached bool          // it was in the cache
	CPU    time.Duration // processor time that compiling it took, now or when it was put into the cache
	Bytes  int64         // what of it comes into memory; 0 where nobody has recorded it
}

// String is how the log names an object: what compiling it took or would have taken, and its size.
func (c Compiled) String() string {
	how := "compiled"
	if c.Cached {
		how = "cached"
	}
	return fmt.Sprintf("  %s %d ms %d bytes %s", how, c.CPU.Milliseconds(), c.Bytes, c.Object)
}

// headline begins the list of what a build compiled, and names the kernel.
const headline = "katabuild: objects of "

// Headline is the line above the list of what a build compiled; release is the kernel's.
func Headline(release string) string { return headline + release }

// compiled is a line of the list; sizes were not always recorded.
var compiled = regexp.MustCompile(`^  (compiled|cached) (\d{1,9}) ms (?:(\d{1,12}) bytes )?([!-~]+)$`)

// What is read of a log: all of Linux 6.12 has 30,000 objects. Linux: PATH_MAX of include/uapi/linux/limits.h.
const (
	maxCompiled = 200_000
	maxName     = 4096
)

// ReadCompiled reads from a build's log what it compiled, and the release of the kernel; empty where the log does not
// name it. Before the list the tree's own programs have written, who could have written anything: of several lines for
// one object the last counts, and names that lead out of the tree are left out.
func ReadCompiled(r io.Reader) (release string, all []Compiled, err error) {
	at := map[string]int{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), headline); ok {
			release, all = strings.TrimSpace(rest), nil
			clear(at)
			continue
		}
		m := compiled.FindStringSubmatch(s.Text())
		if m == nil || len(m[4]) > maxName || !fs.ValidPath(m[4]) {
			continue
		}
		ms, _ := strconv.ParseInt(m[2], 10, 64) // the expression bounds the digits
		size, _ := strconv.ParseInt(m[3], 10, 64)
		c := Compiled{Object: m[4], Cached: m[1] == "cached", CPU: time.Duration(ms) * time.Millisecond, Bytes: size}
		if i, ok := at[c.Object]; ok {
			all[i] = c
			continue
		}
		if len(all) == maxCompiled {
			return "", nil, fmt.Errorf("the log names more than %d objects", maxCompiled)
		}
		at[c.Object] = len(all)
		all = append(all, c)
	}
	return release, all, s.Err()
}
