package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// statFiles is how many files disk looks at.
const statFiles = 300

// disk measures a folder's file system: what it writes, what it reads where caches can be dropped, and looking at
// files.
func disk(args []string) error {
	mib, err := number(args, 1)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	path := filepath.Join(args[0], "speed")
	start := time.Now()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for range mib {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	write := time.Since(start)
	dir := filepath.Join(args[0], "speeds")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := range statFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			return err
		}
	}
	// Linux: Documentation/admin-guide/sysctl/vm.rst.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	start = time.Now()
	if f, err = os.Open(path); err != nil {
		return err
	}
	n := 0
	for {
		k, err := f.Read(block)
		n += k
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	read := time.Since(start)
	if n != mib<<20 {
		return fmt.Errorf("%d bytes came back of %d MiB", n, mib)
	}
	start = time.Now()
	for i := range statFiles {
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprint(i))); err != nil {
			return err
		}
	}
	fmt.Printf("%d %d %d\n", write.Microseconds(), read.Microseconds(), time.Since(start).Microseconds())
	return errors.Join(os.Remove(path), os.RemoveAll(dir))
}

// wire serves what the first byte of a connection asks for: e is an echo, s sends zeros until the other hangs up, r
// reads to the end and answers a byte.
func wire(args []string) error {
	if len(args) != 1 {
		return errors.New("wire wants an address")
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			word := make([]byte, 1)
			if _, err := io.ReadFull(c, word); err != nil {
				return
			}
			b := make([]byte, 64<<10)
			switch word[0] {
			case 'e':
				_, _ = io.Copy(c, c)
			case 's':
				for {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			case 'r':
				_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, b)
				_, _ = c.Write(word)
			}
		}()
	}
}
