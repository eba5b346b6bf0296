// Package fatal turns whatever ends the agent into a last message on the console and an end of the guest: never a silent hang.
//
// Goroutines of the agent are started with Handler.Go, or begin with `defer h.Guard()`. What Go cannot recover (a concurrent map
// write, no memory) and panics in goroutines of libraries are printed by Go's run time on standard error, which is the console for
// PID 1; then PID 1 exits, the kernel panics and, as early.RestartOnPanic has it, restarts at once.
package fatal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Prefix begins every last message. Hosts look for it on the console.
const Prefix = "katabuild-agent: panic: "

// maxFrames bounds the stack in a last message.
const maxFrames = 16

// Handler speaks the last words. Both fields are needed.
type Handler struct {
	Console io.Writer
	End     func() // ends the guest, or the process; a return from it is followed by a wait for the end that it started

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
		// One write, so that the lines of other writers do not come between.
		fmt.Fprint(h.Console, Prefix+why+"\n"+stack)
		h.End()
	})
	select {} // somebody else got here first, or the end is on its way
}

// stack is who panicked, innermost first, one line a function.
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

// PowerOff ends the guest: it writes out what is cached, powers off, and where that does not work restarts (VMMs are started so that a
// restart ends them) or at last returns the errors.
func PowerOff() error {
	unix.Sync()
	var errs []error
	for _, how := range howToEnd(runtime.GOARCH, exists) {
		errs = append(errs, unix.Reboot(how))
	}
	return errors.Join(errs...)
}

// howToEnd lists reboot(2) commands in the order to try them. Asked to power off, a kernel that does not know how halts instead and
// never returns. On x86 only ACPI knows how, so without it we restart straight away; elsewhere firmware calls do (PSCI, RTAS, SBI, CP).
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
