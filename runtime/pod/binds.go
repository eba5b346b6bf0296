package pod

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// binds are the volumes in the shared folder. One that several containers have is there once: the guest then knows that it is one, and what a container
// writes is seen by the next at once, not when the guest's memory of the other has grown old. The zero value has none.
type binds struct {
	mu   sync.Mutex
	list map[bindKey]*boundVolume // guarded by mu
}

// bindKey tells volumes apart: a path may come to lead to another file, and a file may have other mounts below it by another path.
type bindKey struct {
	path      string
	dev, node uint64
	readOnly  bool
}

// boundVolume is a volume with how often it is in use.
type boundVolume struct {
	key  bindKey
	name string // in the shared folder, and of its owner there
	uses int    // guarded by binds.mu
}

// bind has a file or folder of the host in the shared folder for a container, and returns its name there. One that others may write to is not made again for
// who only reads: the guest sees to that.
func (p *Pod) bind(have *container, source string, st os.FileInfo, readOnly bool) (string, error) {
	sys := st.Sys().(*syscall.Stat_t)
	key := bindKey{filepath.Clean(source), sys.Dev, sys.Ino, false}
	p.binds.mu.Lock()
	defer p.binds.mu.Unlock()
	b := p.binds.list[key]
	if b == nil && readOnly {
		key.readOnly = true
		b = p.binds.list[key]
	}
	if b == nil {
		name, err := volumeName(have.id, source)
		if err != nil {
			return "", err
		}
		if err := p.share.Bind(name, name, source, readOnly); err != nil {
			return "", errors.Join(err, p.share.Release(name))
		}
		b = &boundVolume{key: key, name: name}
		if p.binds.list == nil {
			p.binds.list = map[bindKey]*boundVolume{}
		}
		p.binds.list[key] = b
	}
	b.uses++
	have.binds = append(have.binds, b)
	return b.name, nil
}

// unbind ends a container's uses of volumes, and takes away those that nobody uses any more.
func (p *Pod) unbind(c *container) error {
	var errs []error
	for _, b := range c.binds {
		p.binds.mu.Lock()
		b.uses--
		last := b.uses == 0
		if last {
			delete(p.binds.list, b.key)
		}
		p.binds.mu.Unlock()
		if last {
			errs = append(errs, p.share.Release(b.name))
		}
	}
	c.binds = nil
	return errors.Join(errs...)
}
