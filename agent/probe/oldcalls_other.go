//go:build !amd64

package probe

import "errors"

// oldCalls is tried on x86_64 alone.
func oldCalls() error { return errors.New("this is no x86_64") }
