// Package storagetest has files for the tests of package storage and its parts: some to write and read, and a host's
// sysfs with disks.
package storagetest

import (
	"os"
	"path/filepath"
	"testing"
)

// Write makes a file, and the folders above it.
func Write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Read is a file's content, or the error of reading it.
func Read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Files makes files below a folder of the test's, and returns that.
func Files(t testing.TB, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for f, text := range files {
		Write(t, filepath.Join(root, f), text)
	}
	return root
}

// pciDisk is the folder of the disk vdb.
const pciDisk = "sys/devices/pci0000:00/0000:00:02.0/0000:01:01.0/virtio3/block/vdb/"

// Disks makes the files that Linux shows of a disk of each kind: vdb with two partitions behind a PCI bridge, pmem1,
// the SCSI disk sda and the CCW disk dasda.
func Disks(t testing.TB) (root string) {
	t.Helper()
	return Files(t, map[string]string{
		"sys/devices/pci0000:00/0000:00:02.0/pci_bus/0000:01/x": "",
		pciDisk + "dev":                                              "254:16\n",
		"sys/class/block/vdb/dev":                                    "254:16\n",
		"sys/class/block/vdb/vdb2/partition":                         "2\n",
		"sys/class/block/vdb2/dev":                                   "254:18\n",
		"sys/class/block/pmem1/dev":                                  "259:1\n",
		"sys/class/block/sda/dev":                                    "8:0\n",
		"sys/class/block/dasda/dev":                                  "94:0\n",
		"sys/bus/scsi/devices/2:0:1:3/block/sda/dev":                 "8:0\n",
		"sys/class/scsi_host/host2/scan":                             "",
		"sys/devices/css0/0.0.0004/0.0.0005/virtio1/block/dasda/dev": "94:0\n",
	})
}
