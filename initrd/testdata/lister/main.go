// Command lister is the init of a boot test: it prints what the kernel made of the initrd, one line a file, and powers
// off.
package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

func main() {
	err := filepath.WalkDir("/", func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		var body []byte
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			if p != "/init" {
				if body, err = os.ReadFile(p); err != nil {
					return err
				}
			}
		case syscall.S_IFLNK:
			s, err := os.Readlink(p)
			if err != nil {
				return err
			}
			body = []byte(s)
		}
		links := uint64(0) // of folders, the kernel counts by itself
		if st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			links = uint64(st.Nlink)
		}
		// The low numbers of Linux's dev_t: minor in bits 0-7 and 20 on, major in bits 8-19.
		_, err = fmt.Printf("LIST %o %d:%d links %d device %d:%d %s %q\n", st.Mode, st.Uid, st.Gid, links,
			st.Rdev>>8&0xfff, st.Rdev&0xff|st.Rdev>>12&0xfff00, p, body)
		return err
	})
	fmt.Printf("LIST end %v\n", err)
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}
