// Package vfio finds the devices of the host that a group of VFIO's gives away.
//
// In comes a file such as /dev/vfio/7, which a device plug-in gives a container; out come the PCI devices of that
// group, each ready to be handed to a virtual machine, or why one of them is not. It only looks: it binds no device to
// a driver and opens no group.
//
// Linux: Documentation/driver-api/vfio.rst, "Groups, Devices, and IOMMUs".
package vfio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/katabuild/katabuild/internal/lazyregexp"
)

// Folder is where the files of groups are, and Container the file by which a program gets at all of them.
const (
	Folder    = "/dev/vfio"
	Container = Folder + "/vfio"
)

// Device is a device of a group.
type Device struct {
	Name     string // 0000:01:00.0, or the UUID of a mediated one
	Path     string // its folder in sysfs, without links
	Mediated bool   // a part of a device, made by its driver
}

// Is says whether a path of /dev is VFIO's.
func Is(path string) bool { return path == Folder || strings.HasPrefix(path, Folder+"/") }

// Of is the file of the group that a PCI device is in. root is where sys is found.
func Of(root, name string) (string, error) {
	if !address().MatchString(name) {
		return "", fmt.Errorf("%q is no address of PCI", name)
	}
	to, err := os.Readlink(filepath.Join(root, "sys/bus/pci/devices", name, "iommu_group"))
	if err != nil {
		return "", fmt.Errorf("the IOMMU group of %s: %w", name, err)
	}
	return Folder + "/" + filepath.Base(to), nil
}

// maxDevices bounds a group.
const maxDevices = 32

// address is that of a PCI device. Linux: Documentation/PCI/pci.rst.
var address = lazyregexp.New(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

// group is the number of the group that a file is, or why it is none.
func group(path string) (int, error) {
	name, ok := strings.CutPrefix(path, Folder+"/")
	if !ok {
		return 0, fmt.Errorf("%s is no file of VFIO's", path)
	}
	if strings.HasPrefix(name, "devices/") {
		return 0, fmt.Errorf("%s is a device for iommufd, which the runtime does not use: name its group, %s/NUMBER",
			path, Folder)
	}
	if strings.HasPrefix(name, "noiommu-") {
		return 0, fmt.Errorf("%s has no IOMMU: a guest that has it can write to all of the host's memory", path)
	}
	n, err := strconv.ParseUint(name, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != name {
		return 0, fmt.Errorf("%s is no group of VFIO's: want %s/NUMBER", path, Folder)
	}
	return int(n), nil
}

// Group are the devices of the group that the file path of /dev is, sorted, without bridges, which stay the host's.
// root is where sys is found.
func Group(root, path string) ([]Device, error) {
	n, err := group(path)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, "sys/kernel/iommu_groups", strconv.Itoa(n), "devices")
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the host has no IOMMU group %d (%w)", n, err)
	case err != nil:
		return nil, err
	case len(entries) > maxDevices:
		return nil, fmt.Errorf("IOMMU group %d has %d devices: at most %d can be passed", n, len(entries), maxDevices)
	}
	var out []Device
	for _, e := range entries {
		d, err := look(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s of IOMMU group %d: %w", e.Name(), n, err)
		}
		if d != nil {
			out = append(out, *d)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("IOMMU group %d has no device that could be passed", n)
	}
	slices.SortFunc(out, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Classes of bridges: PCI Code and ID Assignment 1.11, 1.7.
const hostBridge, pciBridge = "0x0600", "0x0604"

// look judges a device. A bridge is nil.
func look(path string) (*Device, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	d := &Device{Name: filepath.Base(real), Path: real}
	switch subsystem := linked(real, "subsystem"); subsystem {
	case "mdev":
		d.Mediated = true
		api, err := os.ReadFile(filepath.Join(real, "mdev_type/device_api"))
		if err != nil {
			return nil, err
		}
		if kind := strings.TrimSpace(string(api)); kind != "vfio-pci" {
			return nil, fmt.Errorf("it is a mediated device of type %s, and only vfio-pci is passed", kind)
		}
		return d, nil
	case "pci":
	default:
		return nil, fmt.Errorf("it is a device of the bus %q, and only those of PCI are passed", subsystem)
	}
	if !address().MatchString(d.Name) {
		return nil, fmt.Errorf("%q is no address of PCI", d.Name)
	}
	class, err := os.ReadFile(filepath.Join(real, "class"))
	if err != nil {
		return nil, err
	}
	if c := string(class); strings.HasPrefix(c, hostBridge) || strings.HasPrefix(c, pciBridge) {
		return nil, nil
	}
	// Drivers of vendors for their own devices are called NAME-vfio-pci or NAME_vfio_pci.
	switch driver := linked(real, "driver"); {
	case strings.HasSuffix(strings.ReplaceAll(driver, "_", "-"), "vfio-pci"):
		return d, nil
	case driver == "":
		return nil, errors.New("no driver of the host has it: bind it to vfio-pci, as all devices of a group are " +
			"passed together")
	default:
		return nil, fmt.Errorf("the host's driver %s has it: bind it to vfio-pci, as all devices of a group are "+
			"passed together", driver)
	}
}

// linked is the name of what a link of a device leads to; empty is none.
func linked(dir, name string) string {
	to, err := os.Readlink(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return filepath.Base(to)
}
