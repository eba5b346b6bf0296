package kube

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Folders that kubelet uses wherever its other folders are.
const (
	kubeletDir = "/var/lib/kubelet"
	logDir     = "/var/log/containers"
	podLogs    = "/var/log/pods"
)

// tuned are the settings of the kernel that kubelet changes for the whole machine. Kubernetes: pkg/util/sysctl and
// https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/, protectKernelDefaults.
var tuned = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// furnish mounts folders of this cluster where kubelet writes, and files over the settings that it would change.
func (c *Cluster) furnish() error {
	for _, target := range []string{kubeletDir, logDir, podLogs} {
		source := c.file("host" + target)
		if err := errors.Join(os.MkdirAll(source, 0o755), os.MkdirAll(target, 0o755)); err != nil {
			return err
		}
		if err := c.bind(source, target); err != nil {
			return err
		}
	}
	for _, s := range tuned {
		target, source := "/proc/sys/"+s, c.file("sysctl/"+s)
		b, err := os.ReadFile(target)
		if err != nil {
			return err
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(source), 0o755), os.WriteFile(source, b, 0o644)); err != nil {
			return err
		}
		if err := c.bind(source, target); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts source on target. What is mounted below either is not seen below the other, but is where pods' files are
// shared from.
func (c *Cluster) bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", source, target, err)
	}
	c.mounts = append(c.mounts, target)
	for _, kind := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", target, "", kind, ""); err != nil {
			return fmt.Errorf("change the propagation of %s: %w", target, err)
		}
	}
	return nil
}

// clear unmounts what furnish mounted.
func (c *Cluster) clear() error {
	var errs []error
	for _, m := range slices.Backward(c.mounts) {
		if err := unix.Unmount(m, 0); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	c.mounts = nil
	return errors.Join(errs...)
}
