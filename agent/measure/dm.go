package measure

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/katabuild/katabuild/internal/report"
	"golang.org/x/sys/unix"
)

// The device-mapper's interface: <linux/dm-ioctl.h>, version 4. A request is a struct dm_ioctl of 312 bytes, which the kernel copies from the
// start of a buffer and answers in place; what it has to say more follows at dataStart.
const (
	dmTableStatus     = 0xc138fd0c // _IOWR(0xfd, DM_TABLE_STATUS_CMD, struct dm_ioctl)
	dmHeader          = 312        // sizeof(struct dm_ioctl) with its padding
	dmMajor           = 4
	dmStatusTable     = 1 << 4 // DM_STATUS_TABLE_FLAG: the parameters, not the state
	dmBufferFull      = 1 << 8 // DM_BUFFER_FULL_FLAG
	dmOffsetSize      = 12     // of data_size
	dmOffsetStart     = 16     // of data_start
	dmOffsetTargets   = 20     // of target_count
	dmOffsetFlags     = 28     // of flags
	dmOffsetDev       = 40     // of dev: a huge-encoded number of the device
	dmSpec            = 40     // sizeof(struct dm_target_spec)
	dmSpecType        = 24     // of target_type in it
	dmSpecTypeLength  = 16     // DM_MAX_TYPE_NAME
	dmBuffer          = 16 << 10
	verityRootHash    = 8 // Documentation/admin-guide/device-mapper/verity.rst: version, dev, hash_dev, 2 block sizes, blocks, start, algorithm, digest
	dmControlFallback = "/dev/katabuild-dm-control"
)

// verity reads the root hash from the running table of a device, "major:minor", and is nil where the device is not a verity device.
func (g *Guest) verity(device string) (*report.Verity, error) {
	if _, err := os.Stat(g.path("sys/dev/block/" + device + "/dm/name")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	major, minor, ok := strings.Cut(device, ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return nil, fmt.Errorf("device %q: want major:minor", device)
	}
	control, err := openControl(g.path("sys/class/misc/device-mapper/dev"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	b := make([]byte, dmBuffer)
	binary.NativeEndian.PutUint32(b, dmMajor)
	binary.NativeEndian.PutUint32(b[dmOffsetSize:], dmBuffer)
	binary.NativeEndian.PutUint32(b[dmOffsetStart:], dmHeader)
	binary.NativeEndian.PutUint32(b[dmOffsetFlags:], dmStatusTable)
	binary.NativeEndian.PutUint64(b[dmOffsetDev:], hugeDev(ma, mi))
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, control.Fd(), dmTableStatus, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return nil, fmt.Errorf("table of device %s: %w", device, e)
	}
	return parseTable(b)
}

// hugeDev is how user space writes a device number in 64 bits. <linux/kdev_t.h>, huge_encode_dev: as new_encode_dev, 12 bits of major between
// the lower 8 and the upper 12 of minor.
func hugeDev(major, minor uint64) uint64 { return minor&0xff | major<<8 | (minor&^0xff)<<12 }

// openControl opens the device-mapper's control device: where devtmpfs put it, or under a name of our own.
func openControl(numbers string) (*os.File, error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	text, err := os.ReadFile(numbers)
	if err != nil {
		return nil, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return nil, fmt.Errorf("%s: %w", numbers, err)
	}
	if err := unix.Mknod(dmControlFallback, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("%s: %w", dmControlFallback, err)
	}
	return os.OpenFile(dmControlFallback, os.O_RDWR, 0)
}

// parseTable finds the verity target in the answer to dmTableStatus.
func parseTable(b []byte) (*report.Verity, error) {
	if binary.NativeEndian.Uint32(b[dmOffsetFlags:])&dmBufferFull != 0 {
		return nil, errors.New("device-mapper table: longer than any of ours")
	}
	at := int(binary.NativeEndian.Uint32(b[dmOffsetStart:]))
	targets := binary.NativeEndian.Uint32(b[dmOffsetTargets:])
	if targets != 1 {
		return nil, nil // verity covers a whole device, so it is the only target
	}
	if at < dmHeader || at > len(b)-dmSpec {
		return nil, fmt.Errorf("device-mapper table: at %d of %d bytes", at, len(b))
	}
	spec, params := b[at:at+dmSpec], b[at+dmSpec:]
	if unix.ByteSliceToString(spec[dmSpecType:dmSpecType+dmSpecTypeLength]) != "verity" {
		return nil, nil
	}
	text, _, ok := bytes.Cut(params, []byte{0})
	words := strings.Fields(string(text))
	if !ok || len(words) <= verityRootHash {
		return nil, fmt.Errorf("verity table %q: want at least %d words", text, verityRootHash+1)
	}
	if _, err := hex.DecodeString(words[verityRootHash]); err != nil {
		return nil, fmt.Errorf("verity table %q: the root hash is not hexadecimal", text)
	}
	return &report.Verity{RootHash: words[verityRootHash]}, nil
}
