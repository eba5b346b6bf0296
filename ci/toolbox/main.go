// Command toolbox is the static program in the test images: each word does one thing that a shell cannot do or cannot
// say exactly.
package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// words are what the program can do. Each gets the arguments behind its name.
var words = map[string]struct {
	doc string
	run func(args []string) error
}{
	"pause": {"pause [FILE]: make FILE, sleep until SIGTERM or SIGINT, then end with 0; reap what others leave",
		pause},
	"stubborn": {"stubborn [FILE]: make FILE, sleep and ignore SIGTERM, SIGINT and SIGHUP", stubborn},
	"ticks":    {"ticks FILE MS: count in FILE every MS milliseconds", ticks},
	"signals":  {"signals [FILE]: make FILE, print each signal's number, end at SIGTERM", signals},
	"serve":    {"serve ADDRESS TEXT: an HTTP server that answers TEXT, or what is posted", serve},
	"get":      {"get URL: print the body", get},
	"self":     {"self: print what the kernel says of this process as JSON", self},
	"ahead": {"ahead FILE MS: as a program in memory, with no file open, map FILE, say so, have it read after MS " +
		"milliseconds, and sleep", ahead},
	"call":    {"call NAME [PATH]: do one system call, print ok or the error's name", call},
	"eat":     {"eat MIB: allocate and touch memory, say so, and sleep", eat},
	"spew":    {"spew MIB: write that much, always the same bytes", spew},
	"sum":     {"sum [BYTES]: print the SHA-256 of standard input, or of its first BYTES", sum},
	"cat":     {"cat: copy standard input to standard output", cat},
	"fork":    {"fork N: start N sleepers, print how many could be started", fork},
	"shm":     {"shm put KEY TEXT | shm get KEY: a System V shared memory segment", shm},
	"winsize": {"winsize: print the terminal's rows and columns, and again after each SIGWINCH", winsize},
	"spin":    {"spin SECONDS: use one CPU", spin},
	"disk":    {"disk DIR MIB: microseconds to write, to read, and to look at 300 files", disk},
	"vsock":   {"vsock PORT...: listen on each of the guest's vsock ports, print what came of it", vsockPorts},
	"fileops": {"fileops DIR [NAME...]: try operations on files in a folder; print each one's name and what " +
		"came of it", fileops},
	"fileop": {"fileop WORD PATH: do one of them as this process, print the number of the error", fileop},
	"wire":   {"wire ADDRESS: a TCP server whose connections echo, send or swallow", wire},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "toolbox:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("give a word")
	}
	w, ok := words[args[0]]
	if !ok {
		return fmt.Errorf("no word %q", args[0])
	}
	return w.run(args[1:])
}

// number reads args[i] as a number.
func number(args []string, i int) (int, error) {
	if len(args) <= i {
		return 0, fmt.Errorf("lacks argument %d", i+1)
	}
	return strconv.Atoi(args[i])
}

// block is the n-th KiB of what spew writes.
func block(n int) []byte {
	b := make([]byte, 0, 1024)
	for len(b) < 1024 {
		s := sha256.Sum256(fmt.Appendf(nil, "%d %d", n, len(b)))
		b = append(b, s[:]...)
	}
	return b
}

func spew(args []string) error {
	mib, err := number(args, 0)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(os.Stdout, 64<<10)
	for i := range mib * 1024 {
		if _, err := out.Write(block(i)); err != nil {
			return err
		}
	}
	return out.Flush()
}

func sum(args []string) error {
	in := io.Reader(os.Stdin)
	if len(args) > 0 {
		n, err := number(args, 0)
		if err != nil {
			return err
		}
		in = io.LimitReader(in, int64(n))
	}
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%x %d\n", h.Sum(nil), n)
	return err
}

func cat([]string) error {
	_, err := io.Copy(os.Stdout, os.Stdin)
	return err
}

// stay keeps this program in memory. Where memory is short, the kernel may else take the program's pages and read them
// again for ever, instead of giving up.
func stay() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(maps)) {
		var start, end uintptr
		if _, err := fmt.Sscanf(l, "%x-%x", &start, &end); err != nil || !strings.HasSuffix(strings.TrimSpace(l), exe) {
			continue
		}
		if _, _, e := unix.Syscall(unix.SYS_MLOCK, start, end-start, 0); e != 0 {
			return fmt.Errorf("keep %s in memory: %w", strings.TrimSpace(l), e)
		}
	}
	return nil
}

func eat(args []string) error {
	mib, err := number(args, 0)
	if err != nil {
		return err
	}
	if err := stay(); err != nil {
		return err
	}
	var kept [][]byte
	for range mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
	fmt.Printf("ate %d MiB\n", len(kept))
	time.Sleep(time.Hour)
	return fmt.Errorf("%d MiB were kept for an hour", len(kept))
}

func spin(args []string) error {
	s, err := number(args, 0)
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Duration(s) * time.Second); time.Now().Before(end); {
	}
	return nil
}

func ticks(args []string) error {
	ms, err := number(args, 1)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		if err := os.WriteFile(args[0]+".new", fmt.Appendf(nil, "%d\n", n), 0o644); err != nil {
			return err
		}
		if err := os.Rename(args[0]+".new", args[0]); err != nil {
			return err
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
}
