package builder

import (
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/kernel"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// FeaturesOf names the features that a kernel's configuration has every option of, sorted. Those that only require
// others are not among them. name is what the configuration is called in errors.
func FeaturesOf(architecture, name string, config []byte) ([]string, error) {
	a, err := arch.Parse(architecture)
	if err != nil {
		return nil, err
	}
	all, err := kernel.Features(a)
	if err != nil {
		return nil, err
	}
	final, err := kconfig.ParseConfig(name, config)
	if err != nil {
		return nil, err
	}
	var names []string
	version := kconfig.SourceVersion(config)
	for _, f := range all {
		if w := f.Fragment.For(a.Name, version); len(w) > 0 && len(kconfig.Compare(w, final)) == 0 {
			names = append(names, f.Name)
		}
	}
	return names, nil
}

// CheckKernelVersion says what is wrong with a version of Linux that Features is asked about.
func CheckKernelVersion(version string) error { return kconfig.CheckVersion(version) }
