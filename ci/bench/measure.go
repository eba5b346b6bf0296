package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cost is what processes took, with all the processes they started and waited for.
type cost struct {
	cpu, wall time.Duration
	peak      int64 // bytes of memory that the largest of them had at once
	out       string
}

// way is one way to get something done.
type way struct {
	before   func() error // not measured: takes away what an earlier run left
	commands [][]string   // one after the other
}

// run carries a way out once.
func (w way) run(env ...string) (cost, error) {
	var c cost
	if w.before != nil {
		if err := w.before(); err != nil {
			return c, err
		}
	}
	for _, args := range w.commands {
		cmd := exec.Command(args[0], args[1:]...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.Env = append(os.Environ(), env...)
		began := time.Now()
		err := cmd.Run()
		c.wall += time.Since(began)
		if err != nil {
			return c, fmt.Errorf("%s: %w: %s", cmd, err, tail(out.String()))
		}
		u := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		c.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		c.peak = max(c.peak, u.Maxrss<<10) // getrusage(2): kilobytes
		c.out += out.String()
	}
	return c, nil
}

func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-600):]
}

// race carries ways out n times each, in turn, so that whatever else the machine does meets all of them, and returns
// each one's median run.
func race(n int, by func(a, b cost) int, ways ...way) ([]cost, error) {
	all := make([][]cost, len(ways))
	for range n {
		for i, w := range ways {
			c, err := w.run()
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], c)
		}
	}
	var out []cost
	for _, costs := range all {
		slices.SortFunc(costs, by)
		out = append(out, costs[n/2])
	}
	return out, nil
}

func byCPU(a, b cost) int { return cmp.Compare(a.cpu, b.cpu) }

func byWall(a, b cost) int { return cmp.Compare(a.wall, b.wall) }
