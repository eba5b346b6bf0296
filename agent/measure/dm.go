package measure

import (
	"errors"
	"io/fs"
	"os"

	"github.com/katabuild/katabuild/agent/devmapper"
	"github.com/katabuild/katabuild/internal/report"
)

// verity reads the root hash from the running table of a device, "major:minor", and is nil where the device is not a
// verity device.
func (g *Guest) verity(device string) (*report.Verity, error) {
	if _, err := os.Stat(g.path("sys/dev/block/" + device + "/dm/name")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	d, err := devmapper.ParseDevice(device)
	if err != nil {
		return nil, err
	}
	c, err := devmapper.Open(g.Root)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	hash, err := c.RootHash(d)
	if err != nil || hash == "" {
		return nil, err
	}
	return &report.Verity{RootHash: hash}, nil
}
