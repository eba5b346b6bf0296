package standintest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// memoryBlockMiB is what the memory grows by multiples of.
const memoryBlockMiB = 128

// PlugDisk plugs a disk into the bus, and returns its slot.
func (m *Machine) PlugDisk(ctx context.Context, d Disk) (int, error) {
	node, err := m.open(ctx, d.ID, d.File, d.ReadOnly)
	if err != nil {
		return 0, err
	}
	slot := m.next()
	return slot, m.all(ctx, fmt.Sprintf(`device_add {"driver":"virtio-blk-pci","id":%q,"bus":"pci.0","addr":"%#x",`+
		`"drive":%q}`, d.ID, slot, node))
}

// next is a slot that nobody had before.
func (m *Machine) next() int {
	m.slot++
	return m.slot - 1
}

// open has QEMU open a file as a disk's node.
func (m *Machine) open(ctx context.Context, id string, f *os.File, readOnly bool) (string, error) {
	answer, err := m.ask(ctx, "add-fd", "{}", f)
	if err != nil {
		return "", err
	}
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := json.Unmarshal(answer, &set); err != nil {
		return "", err
	}
	driver := "file"
	if st, err := f.Stat(); err == nil && st.Mode()&os.ModeDevice != 0 {
		driver = "host_device"
	}
	return "raw-" + id, m.all(ctx,
		fmt.Sprintf(`blockdev-add {"driver":%q,"node-name":"file-%s","filename":"/dev/fdset/%d","read-only":%t,`+
			`"locking":"off"}`, driver, id, set.ID, readOnly),
		fmt.Sprintf(`blockdev-add {"driver":"raw","node-name":"raw-%s","file":"file-%s","read-only":%t}`, id, id,
			readOnly))
}

// PlugNIC plugs an interface into the bus, and returns its slot.
func (m *Machine) PlugNIC(ctx context.Context, n NIC) (int, error) {
	if _, err := m.ask(ctx, "getfd", fmt.Sprintf(`{"fdname":"tap-%s"}`, n.ID), n.Tap); err != nil {
		return 0, err
	}
	slot := m.next()
	return slot, m.all(ctx, fmt.Sprintf(`netdev_add {"type":"tap","id":"tap-%s","fd":"tap-%s"}`, n.ID, n.ID),
		fmt.Sprintf(`device_add {"driver":"virtio-net-pci","id":%q,"bus":"pci.0","addr":"%#x","netdev":"tap-%s",`+
			`"mac":%q,"romfile":""}`, n.ID, slot, n.ID, n.MAC))
}

// Unplug asks the guest to let go of a disk, and waits for it.
func (m *Machine) Unplug(ctx context.Context, id string) error {
	if err := m.all(ctx, fmt.Sprintf(`device_del {"id":%q}`, id)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, waitTime)
	defer cancel()
	for {
		err := m.all(ctx, fmt.Sprintf(`blockdev-del {"node-name":"raw-%s"}`, id),
			fmt.Sprintf(`blockdev-del {"node-name":"file-%s"}`, id))
		if err == nil || !strings.Contains(err.Error(), "in use") {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// GrowMemory plugs in memory until there is this much.
func (m *Machine) GrowMemory(ctx context.Context, mib int) error {
	more := mib - m.mib
	if more <= 0 || more%memoryBlockMiB != 0 {
		return fmt.Errorf("%d MiB more: want a multiple of %d", more, memoryBlockMiB)
	}
	m.pieces++
	m.mib = mib
	return m.all(ctx, fmt.Sprintf(`object-add {"qom-type":"memory-backend-memfd","id":"m%d","size":%d,"share":true}`,
		m.pieces, int64(more)<<20), fmt.Sprintf(`device_add {"driver":"pc-dimm","id":"dimm%d",`+
		`"memdev":"m%d"}`, m.pieces, m.pieces))
}

// Change gives a disk that can be written to another file, of another size, while the guest has it.
func (m *Machine) Change(ctx context.Context, id string, f *os.File) error {
	m.pieces++
	st, err := f.Stat()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%d", id, m.pieces)
	answer, err := m.ask(ctx, "add-fd", "{}", f)
	if err != nil {
		return err
	}
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := json.Unmarshal(answer, &set); err != nil {
		return err
	}
	return m.all(ctx,
		fmt.Sprintf(`blockdev-add {"driver":"file","node-name":"file-%s","filename":"/dev/fdset/%d","locking":"off"}`,
			name, set.ID),
		fmt.Sprintf(`blockdev-reopen {"options":[{"driver":"raw","node-name":"raw-%s","file":"file-%s"}]}`, id, name),
		fmt.Sprintf(`block_resize {"node-name":"raw-%s","size":%d}`, id, st.Size()))
}
