// Command guest is the init of the boot tests: a stand-in for the agent, with services to try the vsock with.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ what, where string }{{"proc", "/proc"}, {"devtmpfs", "/dev"}} {
		os.Mkdir(m.where, 0o755)
		unix.Mount(m.what, m.where, m.what, 0, "")
	}
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil { // no console: keep quiet
		console, _ = os.OpenFile("/dev/null", os.O_RDWR, 0)
	}
	line, _ := os.ReadFile("/proc/cmdline")
	mode := "serve"
	for _, w := range strings.Fields(string(line)) {
		if m, ok := strings.CutPrefix(w, "guest.mode="); ok {
			mode = m
		}
	}
	say := func(format string, args ...any) { fmt.Fprintf(console, format+"\n", args...) }
	if mode == "mute-exit" {
		say("guest: ends without a word of the agent's")
		os.Exit(3)
	}
	if mode == "speechless" {
		hang()
	}
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &now)
	say("katabuild-agent: init at %d", now.Nano())
	switch mode {
	case "exit":
		os.Exit(7)
	case "poweroff":
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	case "hang":
		hang()
	}
	for port, serve := range services(say) {
		listen(port, serve, say)
	}
	if mode != "never-ready" {
		tell(mode, say)
	}
	hang()
}

// logger writes a line to the console.
type logger func(format string, args ...any)

// services are what the guest does with a connection, by port.
func services(say logger) map[uint32]func(net.Conn) {
	return map[uint32]func(net.Conn){
		1024: func(c net.Conn) { io.Copy(c, c) },
		1: func(c net.Conn) { // how long is it, and what is its digest?
			h := sha256.New()
			n, err := io.Copy(h, c)
			fmt.Fprintf(c, "%d %x %v\n", n, h.Sum(nil), err)
		},
		2: func(c net.Conn) { // send as many blocks as asked, and close right behind the last byte
			var n uint32
			binary.Read(c, binary.LittleEndian, &n)
			sendBlocks(c, n)
		},
		3: func(c net.Conn) { // likewise, over a connection from here to the host's port
			var ask struct{ Port, N uint32 }
			binary.Read(c, binary.LittleEndian, &ask)
			d, err := vsock.Dial(vsock.Host, ask.Port, nil)
			if err != nil {
				fmt.Fprintf(c, "%v\n", err)
				return
			}
			sendBlocks(d, ask.N)
			d.Close()
			fmt.Fprintln(c, "sent")
		},
		5: func(c net.Conn) { // how long is it?
			n, err := io.Copy(io.Discard, c)
			fmt.Fprintf(c, "%d %v\n", n, err)
		},
		4: func(c net.Conn) { // wait for a reset, and tell how it looks
			_, err := io.Copy(io.Discard, c)
			say("guest: port 4 ended with %v", err)
		},
	}
}

// listen serves a port from here on.
func listen(port uint32, serve func(net.Conn), say logger) {
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, port, nil)
	if err != nil {
		say("guest: listen: %v", err)
		hang()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				say("guest: accept: %v", err)
				time.Sleep(10 * time.Millisecond)
				continue
			}
			go func() {
				serve(c)
				c.Close()
			}()
		}
	}()
}

// tell tells the host that the guest is ready; a liar says something else.
func tell(mode string, say logger) {
	c, err := vsock.Dial(vsock.Host, 1031, nil)
	if err != nil {
		say("guest: ready: %v", err)
		hang()
	}
	if mode == "liar" {
		io.WriteString(c, "xxxxxx")
		c.Close()
		hang()
	}
	io.WriteString(c, "ready\n")
	c.Close()
}

// hang waits for ever. An empty select would end the program when nothing else runs.
func hang() {
	for {
		time.Sleep(time.Hour)
	}
}

// sendBlocks writes n blocks of 64 KiB, each of which begins with its number.
func sendBlocks(w io.Writer, n uint32) {
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i * 7 >> 3)
	}
	for i := range n {
		binary.LittleEndian.PutUint32(block, i)
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}
