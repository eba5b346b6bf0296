// Package cdi gives a container the devices that its annotations ask for by the Container Device Interface.
//
// In come a container's OCI specification and the folders in which vendors describe their devices; out comes the
// specification with what those descriptions add: device files, environment, mounts. Names, folders and descriptions
// are judged by CDI's own library; whether a description could be somebody else's than root's is judged here.
//
// https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/owned"
	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// Folders are where descriptions are, by the specification and in Kata Containers; what a later one says of a device
// counts.
func Folders() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// Asked says whether a container's annotations ask for devices.
func Asked(annotations map[string]string) bool {
	for key := range annotations {
		if strings.HasPrefix(key, cdi.AnnotationPrefix) {
			return true
		}
	}
	return false
}

// Inject is the specification with what the devices of its annotations add to it. What is there already is not added
// again, as an engine may have done it before. s is not changed.
func Inject(s *specs.Spec, folders []string) (*specs.Spec, error) {
	if !Asked(s.Annotations) {
		return s, nil
	}
	_, devices, err := cdi.ParseAnnotations(s.Annotations)
	if err != nil {
		return nil, fmt.Errorf("CDI: %w", err)
	}
	// The annotations are a map: what they ask for is had in one order.
	slices.Sort(devices)
	devices = slices.Compact(devices)
	if err := ofRoot(folders); err != nil {
		return nil, fmt.Errorf("CDI: %w", err)
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(folders...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("CDI: %w", err)
	}
	out, err := clone(s)
	if err != nil {
		return nil, err
	}
	if _, err := cache.InjectDevices(out, devices...); err != nil {
		return nil, fmt.Errorf("CDI: %w", errors.Join(err, broken(cache)))
	}
	return out, nil
}

// clone is a copy all through.
func clone(s *specs.Spec) (*specs.Spec, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	out := &specs.Spec{}
	if err := json.Unmarshal(b, out); err != nil {
		return nil, err
	}
	if out.Process == nil {
		out.Process = &specs.Process{}
	}
	return out, nil
}

// broken are the descriptions that could not be read: a device that is not found may be in one of them.
func broken(c *cdi.Cache) error {
	var errs []error
	for _, list := range c.GetErrors() {
		errs = append(errs, list...)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// ofRoot refuses descriptions that others than root and this user could have written. A folder that is not there is
// empty.
func ofRoot(folders []string) error {
	for _, dir := range folders {
		real, err := filepath.EvalSymlinks(dir) // /var/run is a link
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(owned.Above(real), owned.Folder(real)); err != nil {
			return err
		}
		entries, err := os.ReadDir(real)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); ext != ".json" && ext != ".yaml" {
				continue
			}
			if _, err := owned.Read(filepath.Join(real, e.Name()), 0); err != nil {
				return err
			}
		}
	}
	return nil
}
