package testenv

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// Blocked waits until a goroutine of this process is blocked, whatever for, in a function or in what that calls, for at
// most 10 s. The function is named as stacks name it, without its package's folder: "stdio.(*input).Read". It is for
// tests of what happens to somebody who waits already, where nothing else tells that the wait has begun.
func Blocked(t testing.TB, function string) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			// goroutine 7 [IO wait]:
			head, calls, _ := strings.Cut(stack, "\n")
			_, state, _ := strings.Cut(head, "[")
			state = strings.TrimRight(state, "]:")
			if state != "running" && state != "runnable" && state != "syscall" &&
				strings.Contains(calls, "/"+function+"(") {
				return
			}
		}
	}
	t.Fatalf("nobody is blocked in %s", function)
}
