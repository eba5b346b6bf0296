// Package fatal turns whatever ends the agent into a last message on the console and an end of the guest: never a
// silent hang.
//
// Goroutines of the agent are started with Handler.Go, or begin with `defer h.Guard()`. What Go cannot recover (a
// concurrent map write, no memory) and panics in goroutines of libraries are printed by Go's run time on standard
// error, which is the console for PID 1; then PID 1 exits, the kernel panics and, as early.RestartOnPanic has it,
// restarts at once.
package fatal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/agentapi"
)

// prefix begins every last message. Hosts look for it on the console.
const prefix = agentapi.LinePrefix + "panic: "

// maxFrames bounds the stack in a last message.
const maxFrames = 16

// Handler speaks the last words. Both functions are needed.
type Handler struct {
	Say func(message string) // where a message reaches people; Console is made for it
	// ends the guest, or the process; a return from it is followed by a wait for the end that it started
	End func()

	once sync.Once
}

// Guard, when deferred, turns a panic of its goroutine into the end.
func (h *Handler) Guard() {
	if v := recover(); v != nil {
		h.end(fmt.Sprint(v), stack())
	}
}

// Go runs f in a guarded goroutine.
func (h *Handler) Go(f func()) {
	go func() {
		defer h.Guard()
		f()
	}()
}

// Die ends everything because of err. It does not return.
func (h *Handler) Die(err error) { h.end(err.Error(), "") }

func (h *Handler) end(why, stack string) {
	h.once.Do(func() {
		h.Say(prefix + why + "\n" + stack)
		h.End()
	})
	select {} // somebody else got here first, or the end is on its way
}

// stack is the calls that led to a panic, innermost first, one line a function.
func stack() string {
	pc := make([]uintptr, 64)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)])
	var b strings.Builder
	for n := 0; n < maxFrames; {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			fmt.Fprintf(&b, "  %s %s:%d\n", f.Function, f.File, f.Line)
			n++
		}
		if !more {
			break
		}
	}
	return b.String()
}

// drainTime is how long a terminal may take to pass a message on, which takes a virtual UART microseconds.
const drainTime = 200 * time.Millisecond

// Console writes a message to f, and where f is a terminal that does not pass it on (power-off is near, and a UART
// without a working interrupt keeps its bytes for ever) to the kernel's log too, which the kernel prints by itself.
func Console(f *os.File, message string) {
	_, err := f.WriteString(message) // one write, so that the lines of other writers do not come between
	if err == nil && drained(int(f.Fd()), drainTime) {
		return
	}
	k, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer k.Close()
	// <2> is KERN_CRIT: "quiet" does not hide it. A record of the log has about a thousand bytes, so each line gets its
	// own.
	for line := range strings.Lines(message) {
		io.WriteString(k, "<2>"+line)
	}
}

// drained waits until the terminal fd has passed on what was written. What is no terminal has done so at once.
func drained(fd int, atMost time.Duration) bool {
	for end := time.Now().Add(atMost); ; time.Sleep(time.Millisecond) {
		n, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
		if err != nil || n == 0 {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// PowerOff ends the guest: it writes out what is cached, powers off, and where that does not work restarts (VMMs are
// started so that a restart ends them) or at last returns the errors.
func PowerOff() error {
	unix.Sync()
	var errs []error
	for _, how := range howToEnd(runtime.GOARCH, exists) {
		errs = append(errs, unix.Reboot(how))
	}
	return errors.Join(errs...)
}

// howToEnd lists reboot(2) commands in the order to try them. Asked to power off, a kernel that does not know how halts
// instead and never returns. On x86 only ACPI knows how, so without it we restart straight away; elsewhere firmware
// calls do (PSCI, RTAS, SBI, CP).
func howToEnd(goarch string, exists func(string) bool) []int {
	if goarch == "amd64" && !exists("/sys/firmware/acpi") {
		return []int{unix.LINUX_REBOOT_CMD_RESTART}
	}
	return []int{unix.LINUX_REBOOT_CMD_POWER_OFF, unix.LINUX_REBOOT_CMD_RESTART}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
