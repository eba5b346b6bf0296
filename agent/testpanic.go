//go:build !katabuild_test

package agent

import "github.com/katabuild/katabuild/agent/fatal"

// testPanic does nothing: only binaries built with the tag katabuild_test, which no guest gets, look at
// agent.test_panic.
func testPanic(string, *fatal.Handler) {}
