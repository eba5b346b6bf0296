package devmapper

import (
	"github.com/katabuild/katabuild/internal/dmverity"
)

// VerityTarget is the one target of a table that opens a hash tree. Data and tree may be on one device.
func VerityTarget(t dmverity.Table, data, hash Device) Target {
	return Target{Type: dmverity.TargetType, Size: t.DataSize(), Params: t.Arguments(data.String(), hash.String())}
}

// RootHash is that of the running table of a device, and empty where the device is not guarded by dm-verity alone.
func (c *Control) RootHash(d Device) (string, error) {
	t, err := c.table(d)
	if err != nil {
		return "", err
	}
	return rootHash(t)
}

// rootHash finds it in a table. verity covers a whole device, so it is the only target.
func rootHash(t *Target) (string, error) {
	if t == nil || t.Type != dmverity.TargetType {
		return "", nil
	}
	return dmverity.RootHashOf(t.Params)
}
