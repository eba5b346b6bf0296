package record

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HostProcess is a process that cannot be mistaken for another one which got its number later.
type HostProcess struct {
	PID   int    `json:"pid"`   // 0 is none
	Start uint64 `json:"start"` // clock ticks since boot: field 22 of /proc/PID/stat, proc(5)
}

// startField is the index of the start time in /proc/PID/stat behind the name in parentheses.
const startField = 22 - 3

// ProcessOf describes a running process; the zero value when it is gone.
func ProcessOf(pid int) HostProcess {
	start, err := startTime(pid)
	if err != nil {
		return HostProcess{}
	}
	return HostProcess{PID: pid, Start: start}
}

func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(b), ") ") // a name may hold anything, but the last parenthesis is the kernel's
	for ok && strings.Contains(rest, ") ") {
		_, rest, ok = strings.Cut(rest, ") ")
	}
	f := strings.Fields(rest)
	if len(f) <= startField {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[startField], 10, 64)
}

// Alive says whether the very process still runs.
func (p HostProcess) Alive() bool {
	if p.PID == 0 {
		return false
	}
	start, err := startTime(p.PID)
	return err == nil && start == p.Start
}

// killTime is how long a killed process may take to be gone.
const killTime = 5 * time.Second

// kill ends the process and waits for it to be gone.
func (p HostProcess) kill() error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // it ended in between, and the number may be another's
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(killTime); ; {
		n, err := unix.Poll(poll, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("process %d is still there %v after SIGKILL", p.PID, killTime)
		}
		return nil
	}
}
