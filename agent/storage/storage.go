// Package storage mounts what containers need into the guest, finds their devices, and takes files that the host
// copies.
//
// Storages, devices and file chunks of the guest API go in; mounts, device numbers and files come out. Every path that
// a request names is reached below a known folder without following links. It does not know what a container is: it
// counts the users of what is mounted by their names. Its parts do the deeds: place (paths), mount, disk, incoming
// (files that are copied) and mirror (folders that are watched).
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/katabuild/katabuild/agent/storage/disk"
	"github.com/katabuild/katabuild/agent/storage/incoming"
	"github.com/katabuild/katabuild/agent/storage/place"
	"github.com/katabuild/katabuild/agent/uevent"
	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// runDir is where everything of the guest API lies. docs/formats/agent-api.md.
const runDir = "/run/kata-containers"

// sharedDir is, below runDir, what the host shares or copies.
const sharedDir = "shared/containers"

// Reasons why something cannot be done.
var (
	// ErrNotFound says that what a request names is not there. It wraps fs.ErrNotExist.
	ErrNotFound = disk.ErrNotFound
	// ErrTimeout says that a device did not appear in time. It wraps context.DeadlineExceeded.
	ErrTimeout = uevent.ErrTimeout
	// ErrOutside says that a path is not below a folder this agent may touch, or leaves it by a symbolic link.
	ErrOutside = place.ErrOutside
)

// Programs runs programs of the guest; program.Runner is one.
type Programs interface {
	Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error)
}

// Config is what a Manager needs. Root, Devices and Programs are for tests and the agent alike; the zero value of the
// others is that of a guest.
type Config struct {
	Root     string         // where sys and dev are found; empty is "/"
	Run      string         // empty is runDir; folders of ours are made in it
	Below    []string       // mount points lie below one of these; empty is Run alone
	Devices  disk.Waiter    // needed where a storage or device is waited for
	Programs Programs       // needed where a file system is made
	Go       func(f func()) // starts the goroutines of watchers; nil is a plain go
	Log      *slog.Logger   // nil is none

	WatchEvery time.Duration // how often watched folders are looked at; 0 is 2 s
}

// Manager keeps the mounts of a sandbox. Its methods may be called from several goroutines; none waits for a device
// with a lock held.
type Manager struct {
	c Config

	mu     sync.Mutex
	points map[string]*point // guarded by mu; by mount point
	// addresses are where the guest has PCI devices of the host: guarded by mu; by the host's addresses.
	addresses map[string]string

	incoming incoming.Files
	huge     sync.Mutex // held while the kernel reserves huge pages
}

// point is a mount point in use.
type point struct {
	users  []string      // guarded by Manager.mu; names of containers, one a use
	shared bool          // guarded by Manager.mu: stays until Close
	undo   undo          // written before settled is closed
	err    error         // likewise: why it never came to be
	ready  chan struct{} // closed once it is there, or is not to be
	gone   chan struct{} // closed once it is taken away
	going  bool          // guarded by Manager.mu: being taken away
}

// New makes a manager without mounts.
func New(c Config) *Manager {
	if c.Root == "" {
		c.Root = "/"
	}
	if c.Run == "" {
		c.Run = runDir
	}
	if len(c.Below) == 0 {
		c.Below = []string{c.Run}
	}
	if c.Go == nil {
		c.Go = func(f func()) { go f() }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{c: c, points: map[string]*point{}}
}

// Handlers are the names of the drivers, sorted: GetGuestDetails tells the host.
func (m *Manager) Handlers() []string {
	var names []string
	for _, d := range drivers {
		names = append(names, d.name)
	}
	slices.Sort(names)
	return names
}

// identifier is what a container may be called, since it becomes the name of a folder.
var identifier = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Add mounts storages for a container, or only counts one more user where a mount point is mounted already. When one
// fails, those that this call added are released. The name of the sandbox itself is as good as a container's.
func (m *Manager) Add(ctx context.Context, containerID string, storages []*katapb.Storage) error {
	if !identifier().MatchString(containerID) {
		return fmt.Errorf("container %q: not a name", containerID)
	}
	requests, err := m.group(containerID, storages)
	if err != nil {
		return err
	}
	for i, r := range requests {
		if err := m.use(ctx, r); err != nil {
			errs := []error{fmt.Errorf("storage %s: %w", r.at, err)}
			for _, done := range slices.Backward(requests[:i]) {
				errs = append(errs, m.drop(done.at.String(), containerID, false))
			}
			return errors.Join(errs...)
		}
	}
	return nil
}

// use makes the mount or waits for the one who does.
func (m *Manager) use(ctx context.Context, r request) error {
	key := r.at.String()
	for {
		m.mu.Lock()
		p, there := m.points[key]
		switch {
		case !there:
			p = &point{users: []string{r.container}, shared: r.s.Shared, ready: make(chan struct{}),
				gone: make(chan struct{})}
			m.points[key] = p
			m.mu.Unlock()
			return m.make(ctx, key, p, r)
		case p.going:
			m.mu.Unlock()
			select {
			case <-p.gone:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		p.users = append(p.users, r.container)
		p.shared = p.shared || r.s.Shared
		m.mu.Unlock()
		select {
		case <-p.ready:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), m.drop(key, r.container, false))
		}
		if p.err == nil {
			return nil
		}
		// Whoever made it failed, perhaps because its caller left. The point is gone from the list; ours is another
		// try.
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// make mounts, with no lock held.
func (m *Manager) make(ctx context.Context, key string, p *point, r request) error {
	err := func() (err error) {
		defer func() {
			if err != nil {
				err = errors.Join(err, p.undo.run())
			}
		}()
		return r.driver.do(ctx, m, r, &p.undo)
	}()
	m.mu.Lock()
	if err != nil {
		delete(m.points, key)
	}
	p.err = err
	m.mu.Unlock()
	close(p.ready)
	return err
}

// drop ends one use of a mount point by a container, or all, and takes the mount away with the last.
func (m *Manager) drop(key, container string, all bool) error {
	m.mu.Lock()
	p, there := m.points[key]
	if !there || p.going {
		m.mu.Unlock()
		return nil
	}
	if all {
		p.users = slices.DeleteFunc(p.users, func(u string) bool { return u == container })
	} else if i := slices.Index(p.users, container); i >= 0 {
		p.users = slices.Delete(p.users, i, i+1)
	}
	last := len(p.users) == 0 && !p.shared
	p.going = last
	m.mu.Unlock()
	if !last {
		return nil
	}
	return m.remove(key, p)
}

// remove takes away a point that is marked as going.
func (m *Manager) remove(key string, p *point) error {
	<-p.ready // short: whoever makes it gives up when its caller does
	err := p.undo.run()
	m.mu.Lock()
	if m.points[key] == p {
		delete(m.points, key)
	}
	m.mu.Unlock()
	close(p.gone)
	return err
}

// Release ends every use by a container. What nobody uses any more is unmounted, the latest first; shared mounts stay
// until Close. Every one is tried.
func (m *Manager) Release(containerID string) error {
	var errs []error
	for _, key := range m.keys() {
		errs = append(errs, m.drop(key, containerID, true))
	}
	return errors.Join(errs...)
}

// Close unmounts everything, when the sandbox ends. The manager may be used again afterwards.
func (m *Manager) Close() error {
	var errs []error
	for _, key := range m.keys() {
		m.mu.Lock()
		p := m.points[key]
		ours := p != nil && !p.going
		if ours {
			p.going = true
		}
		m.mu.Unlock()
		if ours {
			errs = append(errs, m.remove(key, p))
		}
	}
	errs = append(errs, m.incoming.Close())
	return errors.Join(errs...)
}

// keys lists the mount points, a deeper one before the one it may be mounted on.
func (m *Manager) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]string, 0, len(m.points))
	for k := range m.points {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	slices.Reverse(keys)
	return keys
}

// undo is what takes a thing apart again, in reverse.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

// run does it once.
func (u *undo) run() error {
	var errs []error
	for _, f := range slices.Backward(*u) {
		errs = append(errs, f())
	}
	*u = nil
	return errors.Join(errs...)
}
