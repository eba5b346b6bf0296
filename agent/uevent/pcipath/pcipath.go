// Package pcipath names a PCI device by the slots on the way to it, which host and guest agree on, and finds it in
// sysfs, where buses have numbers that only the guest knows.
package pcipath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// The numbers of a PCI device on its bus: 5 bits of slot and 3 of function. <linux/pci.h>, PCI_SLOT and PCI_FUNC.
const (
	maxSlot     = 0x1f
	maxFunction = 7
	maxBus      = 0xff
)

// maxDepth is more bridges than a machine of ours nests.
const maxDepth = 16

// ErrNotFound says that no device is at a path now. It wraps fs.ErrNotExist.
var ErrNotFound = fmt.Errorf("no PCI device is there: %w", fs.ErrNotExist)

// Slot is one step: a device on a bus.
type Slot struct{ Slot, Function uint8 }

func (s Slot) String() string {
	if s.Function == 0 {
		return fmt.Sprintf("%02x", s.Slot)
	}
	return fmt.Sprintf("%02x.%x", s.Slot, s.Function)
}

// Path is the way from a root bus to a device. The last slot is the device's, the others are those of bridges.
type Path struct {
	Root  uint8 // number of the root bus: 0, or that of another root complex
	Slots []Slot
}

// String is the path as the host writes it.
func (p Path) String() string {
	var words []string
	if p.Root != 0 {
		words = append(words, fmt.Sprintf("%02x", p.Root))
	}
	for _, s := range p.Slots {
		words = append(words, s.String())
	}
	return strings.Join(words, "/")
}

// word is a step: two hexadecimal digits at most, and a function.
var word = lazyregexp.New(`^([0-9a-fA-F]{1,2})(?:\.([0-7]))?$`)

// Parse reads slots in hexadecimal with a slash between them, "02/01" or "02/01.1". A first number that is no slot, 20
// or above, is the number of a root bus, as expander bridges have.
func Parse(s string) (Path, error) {
	words := strings.Split(s, "/")
	if len(words) > maxDepth {
		return Path{}, fmt.Errorf("PCI path of %d steps: want at most %d", len(words), maxDepth)
	}
	var p Path
	for i, w := range words {
		m := word().FindStringSubmatch(w)
		if m == nil {
			return Path{}, fmt.Errorf("PCI path %q: %q is not a slot in hexadecimal, with .FUNCTION or without", s, w)
		}
		n, err := strconv.ParseUint(m[1], 16, 8)
		if err != nil {
			return Path{}, fmt.Errorf("PCI path %q: %w", s, err)
		}
		if n > maxSlot {
			if i > 0 || m[2] != "" || len(words) == 1 {
				return Path{}, fmt.Errorf("PCI path %q: slot %s is above %x", s, w, maxSlot)
			}
			p.Root = uint8(n)
			continue
		}
		var function uint64
		if m[2] != "" {
			function, _ = strconv.ParseUint(m[2], 8, 8) // one digit up to 7, says the pattern
		}
		p.Slots = append(p.Slots, Slot{uint8(n), uint8(function)})
	}
	return p, nil
}

// FromSlots is the path of slots on functions 0.
func FromSlots(slots []uint32) (Path, error) {
	if len(slots) == 0 || len(slots) > maxDepth {
		return Path{}, fmt.Errorf("PCI path of %d steps: want 1 to %d", len(slots), maxDepth)
	}
	words := make([]string, len(slots))
	for i, s := range slots {
		if s > maxBus {
			return Path{}, fmt.Errorf("PCI path %v: slot %d is above %d", slots, s, maxSlot)
		}
		words[i] = fmt.Sprintf("%02x", s)
	}
	return Parse(strings.Join(words, "/"))
}

// Find is the device's folder in sysfs. root is where sys is found. ErrNotFound may turn into an answer later.
func (p Path) Find(root string) (string, error) {
	dir, err := rootBus(root, p.Root)
	if err != nil {
		return "", fmt.Errorf("PCI path %s: %w", p, err)
	}
	bus := strings.TrimPrefix(filepath.Base(dir), "pci")
	for i, s := range p.Slots {
		dir = filepath.Join(dir, fmt.Sprintf("%s:%02x.%x", bus, s.Slot, s.Function))
		if _, err := os.Stat(dir); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return "", fmt.Errorf("PCI path %s: %s: %w", p, filepath.Base(dir), ErrNotFound)
			}
			return "", fmt.Errorf("PCI path %s: %w", p, err)
		}
		if i == len(p.Slots)-1 {
			return dir, nil
		}
		if bus, err = below(dir); err != nil {
			return "", fmt.Errorf("PCI path %s: %w", p, err)
		}
	}
	return "", fmt.Errorf("PCI path %s: it has no slots", p)
}

// rootBus is the folder of a root complex: among the devices, or below the platform device of a host bridge that no
// firmware described.
func rootBus(root string, number uint8) (string, error) {
	name := fmt.Sprintf("pci0000:%02x", number)
	for _, pattern := range []string{"sys/devices/" + name, "sys/devices/platform/*/" + name,
		"sys/devices/platform/*/*/" + name} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return "", err
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return "", fmt.Errorf("two root buses %s: %s", name, strings.Join(found, ", "))
		}
	}
	return "", fmt.Errorf("root bus %s: %w", name, ErrNotFound)
}

// below is the bus behind a bridge: the only entry of its pci_bus folder.
func below(bridge string) (string, error) {
	buses, err := os.ReadDir(filepath.Join(bridge, "pci_bus"))
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(buses) == 0:
		return "", fmt.Errorf("%s has no bus behind it: %w", filepath.Base(bridge), ErrNotFound)
	case err != nil:
		return "", err
	case len(buses) > 1:
		return "", fmt.Errorf("%s has %d buses behind it", filepath.Base(bridge), len(buses))
	}
	return buses[0].Name(), nil
}
