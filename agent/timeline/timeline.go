// Package timeline notes when the guest reached each point of its boot.
//
// It imports next to nothing on purpose: Go initialises packages in the order of their dependencies, so started is read
// before the large packages (protobuf, logging) are initialised, and the time between "start" and "init" is what those
// cost.
package timeline

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// started is when this package was initialised: Go's run time is up, nearly nothing else is.
var started = now()

// Names of moments that every boot has. Kernel is zero by definition: CLOCK_BOOTTIME starts with the kernel's
// timekeeping.
const (
	Kernel  = "kernel"
	Woken   = "woken" // of a guest that was restored from a template: what follows is after that
	Start   = "start" // the agent's program begins
	Init    = "init"  // the first instruction of its main function
	Mounts  = "mounts"
	Network = "network"
	Listen  = "listen"
	Ready   = "ready"
)

// Extensions is when the last extension was mounted, in guests that have any.
const Extensions = "extensions"

// Moment is a named point on CLOCK_BOOTTIME.
type Moment struct {
	Name string
	At   time.Duration // since the kernel started
}

// Timeline collects moments. Its methods may be called from several goroutines.
type Timeline struct {
	mu      sync.Mutex
	moments []Moment // guarded by mu; in order of time
}

// New begins with Kernel, Start and Init: call it first thing in main.
func New() *Timeline {
	return &Timeline{moments: []Moment{{Kernel, 0}, {Start, started}, {Init, now()}}}
}

// Resumed begins with Kernel, which is that of the template, and with when the guest was woken.
func Resumed(woken time.Duration) *Timeline {
	return &Timeline{moments: []Moment{{Kernel, 0}, {Woken, woken}, {Start, started}, {Init, now()}}}
}

// SinceStart is the time since the guest's kernel started.
func SinceStart() time.Duration { return now() }

// Mark notes that name was reached now.
func (t *Timeline) Mark(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moments = append(t.moments, Moment{name, now()})
}

// Moments lists what was marked so far, in order of time.
func (t *Timeline) Moments() []Moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.moments)
}

func now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // every Linux since 2.6.39 has this clock
	}
	return time.Duration(ts.Nano())
}
