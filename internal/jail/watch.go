package jail

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// watch calls over with what was exceeded once the processes of the jail together exceed l. The kernel's own limits
// are not enough: it counts no processes of the machine's root, and memory for each process alone.
func (l Limits) watch(over func(what string)) {
	if self, err := os.Readlink("/proc/self"); err != nil || self != "1" {
		return // where no proc of the jail's own can be mounted, this one tells of the machine's processes
	}
	for range time.Tick(50 * time.Millisecond) {
		threads, resident, err := taken("/proc")
		switch {
		case err != nil: // no room for one more open file, say: the next time tells
		case threads > l.Processes:
			over(fmt.Sprintf("had more than %d processes and threads", l.Processes))
		case resident > l.Memory:
			over(fmt.Sprintf("had more than %d bytes of memory", l.Memory))
		}
	}
}

// taken is how many threads the processes of a proc file system have, and how many bytes of memory are theirs. Memory
// that several share counts for each.
func taken(proc string) (threads int, resident int64, err error) {
	dir, err := os.Open(proc)
	if err != nil {
		return 0, 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, 0, err
	}
	page := int64(unix.Getpagesize())
	for _, name := range names {
		if name[0] < '0' || name[0] > '9' {
			continue
		}
		stat, err := os.ReadFile(proc + "/" + name + "/stat")
		if err != nil {
			continue // it ended
		}
		// The name of the program, in brackets, may hold any byte. Fields behind it: proc_pid_stat(5).
		f := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
		const numThreads, rss = 20 - 3, 24 - 3
		if len(f) <= rss {
			continue
		}
		n, _ := strconv.Atoi(string(f[numThreads]))
		pages, _ := strconv.ParseInt(string(f[rss]), 10, 64)
		threads += n
		resident += pages * page
	}
	return threads, resident, nil
}
