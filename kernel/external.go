package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/modsign"
	"github.com/katabuild/katabuild/kernel/modules"
)

// externalName is the form of External.Name.
var externalName = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]{0,62}$`)

// The folder below WorkDir that external modules are copied into, and the file of the tree that is the certificate of
// the key for modules, which the feature module-signing names.
const (
	externalDir     = "external"
	certificateFile = "certs/katabuild-modules.pem"
)

// checkExternal refuses names that are none, or twice there.
func (r Request) checkExternal() error {
	for i, x := range r.External {
		if !externalName.MatchString(x.Name) || slices.ContainsFunc(r.External[:i],
			func(y modules.External) bool { return y.Name == x.Name }) {
			return fmt.Errorf(
				"kernel: external module %d: name %q: want a unique one of lower-case letters, digits, - "+
					"and _", i+1, x.Name)
		}
	}
	if len(r.External) > 0 && !r.Modules {
		return errors.New("kernel: external modules need loadable modules")
	}
	return nil
}

// signs says whether modules are signed.
func signs(fs []features.Feature) bool {
	return slices.ContainsFunc(fs, func(f features.Feature) bool { return f.Name == features.ModuleSigning })
}

// trust makes the key for modules, and lets the kernel trust its certificate.
func (b *build) trust() error {
	fs, err := b.features()
	if err != nil || !signs(fs) {
		return err
	}
	if b.ModuleKey != nil {
		b.key, err = modsign.Parse(b.ModuleKey, b.Time)
	} else {
		var inputs []artifact.Input
		if inputs, err = b.Inputs(); err == nil {
			b.key, err = modsign.Derive(digest.Of(fmt.Appendf(nil, "%q", inputs)), b.Time)
		}
	}
	if err != nil {
		return fmt.Errorf("the key for modules: %w", err)
	}
	return b.left.WriteFile(certificateFile, b.key.Certificate(), 0o644)
}

// external builds and installs the modules that are not part of the tree.
func (b *build) external(ctx context.Context, install ...string) error {
	if len(b.External) == 0 {
		return nil
	}
	if err := os.Mkdir(filepath.Join(b.WorkDir, externalDir), 0o755); err != nil {
		return err
	}
	b.show(externalDir, true)
	for _, x := range b.External {
		if err := x.Copy(ctx, filepath.Join(b.WorkDir, externalDir, x.Name)); err != nil {
			return fmt.Errorf("external module %s: %w", x.Name, err)
		}
		m := "M=" + guestDir + "/" + externalDir + "/" + x.Name
		if err := b.make(ctx, m, "modules"); err != nil {
			return fmt.Errorf("external module %s: %w", x.Name, err)
		}
		if err := b.make(ctx, append([]string{m, "modules_install"}, install...)...); err != nil {
			return fmt.Errorf("external module %s: %w", x.Name, err)
		}
	}
	return nil
}
