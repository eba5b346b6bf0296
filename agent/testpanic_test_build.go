//go:build katabuild_test

package agent

import (
	"errors"
	"sync"

	"github.com/katabuild/katabuild/agent/fatal"
)

// testPanic ends the agent in the way that agent.test_panic names, so that a test can see how each way looks from the
// host.
func testPanic(how string, f *fatal.Handler) {
	switch how {
	case "main":
		var list []int
		_ = list[len(how)]
	case "goroutine":
		f.Go(func() { panic("asked for by agent.test_panic") })
		select {}
	case "error":
		f.Die(errors.New("asked for by agent.test_panic"))
	case "throw": // nothing can recover from it
		new(sync.Mutex).Unlock()
	}
}
