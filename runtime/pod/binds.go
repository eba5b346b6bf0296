package pod

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/katabuild/katabuild/runtime/share"
	"github.com/katabuild/katabuild/runtime/translate"
)

// binds are the volumes in the shared folder. One that several containers have is there once: the guest then knows that
// it is one, and what a container writes is seen by the next at once, not when the guest's memory of the other has
// grown old. The zero value has none.
type binds struct {
	mu   sync.Mutex
	list map[bindKey]*boundVolume // guarded by mu
}

// bindKey tells volumes apart: a path may come to lead to another file, and a file may have other mounts below it by
// another path.
type bindKey struct {
	path      string
	dev, node uint64
	access    share.Access
	owners    string // by which its files are seen, as text
}

// boundVolume is a volume with how often it is in use.
type boundVolume struct {
	key  bindKey
	name string // in the shared folder, and of its owner there
	uses int    // guarded by binds.mu
}

// bind has a file or folder of the host in the shared folder for a container, and returns its name there. One that
// others may write to is not made again for a container that only reads: the guest sees to that. If the bind is Alone,
// it is made again all the same, because the guest cannot.
func (p *Pod) bind(have *container, want translate.Bind) (string, error) {
	key := bindKey{filepath.Clean(want.Source), want.File.Dev, want.File.Node, share.Writable,
		fmt.Sprint(want.Owners)}
	p.binds.mu.Lock()
	defer p.binds.mu.Unlock()
	b := p.binds.list[key]
	if want.Access != share.Writable && (b == nil || want.Alone) {
		key.access = want.Access
		b = p.binds.list[key]
	}
	if b == nil {
		name, err := volumeName(have.id, want.Source)
		if err != nil {
			return "", err
		}
		if err := p.share.Bind(name, name, want.Source, want.Access, want.Owners); err != nil {
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

// volumeName is a name in the shared folder that no other volume has.
func volumeName(id, source string) (string, error) {
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	base := filepath.Base(source)
	if base == "/" {
		base = "root"
	}
	return id + "-" + hex.EncodeToString(b) + "-" + base, nil
}
