package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/forbidden"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// settingsName is the file of settings below WorkDir, which the configurator reads and no program of the jail can
// change.
const settingsName = "settings.config"

// configure makes the final .config of the tree: everything off that can be, then the settings, then a local version
// that names the result. It returns the file's bytes, also beside the error of settings that came out otherwise.
func (b *build) configure(ctx context.Context) ([]byte, error) {
	b.phase("configure")
	settings, over, err := b.settle(b.sourceVersion)
	if err != nil {
		return nil, err
	}
	if err := b.tellEmpty(); err != nil {
		return nil, err
	}
	for _, o := range over {
		b.tell(o.String())
	}
	// Of two that cannot both be, the configurator keeps what it reads last.
	var list bytes.Buffer
	for _, preferences := range []bool{true, false} {
		for _, w := range settings {
			if w.Preference == preferences {
				fmt.Fprintln(&list, w.Text())
			}
		}
	}
	fmt.Fprintf(&list, "CONFIG_%s=\"\"\n# CONFIG_%s is not set\n", symbolLocalVersion, symbolLocalVersionAuto)
	if err := os.WriteFile(filepath.Join(b.WorkDir, settingsName), list.Bytes(), 0o644); err != nil {
		return nil, err
	}
	b.show(settingsName, false)
	if err := b.make(ctx, "KCONFIG_ALLCONFIG="+guestDir+"/"+settingsName, "allnoconfig"); err != nil {
		return nil, err
	}
	before, err := b.left.ReadFile(".config", maxText)
	if err != nil {
		return nil, collect(err)
	}
	unnamed := []byte("CONFIG_" + symbolLocalVersion + "=\"\"\n")
	if bytes.Count(before, unnamed) != 1 {
		return nil, fmt.Errorf("the configurator did not write CONFIG_%s", symbolLocalVersion)
	}
	name := localVersionPrefix + digest.Of(before).Short()
	named := bytes.Replace(before, unnamed, []byte("CONFIG_"+symbolLocalVersion+"=\""+name+"\"\n"), 1)
	if err := b.left.WriteFile(".config", named, 0o644); err != nil {
		return nil, err
	}
	if err := b.make(ctx, "olddefconfig"); err != nil {
		return nil, err
	}
	final, err := b.left.ReadFile(".config", maxText)
	if err != nil {
		return nil, collect(err)
	}
	if err := b.compare(settings, over, final); err != nil {
		return final, err
	}
	if !bytes.Equal(final, named) {
		return nil, errors.New(
			"the configurator changed the configuration on its second run, so the local version does not name it")
	}
	files, err := b.localVersions()
	if err != nil {
		return nil, err
	}
	if b.release = b.sourceVersion + files + name; len(b.release) > maxReleaseName || strings.ContainsAny(files,
		" \t\n\"/") {
		return nil, fmt.Errorf(
			"the kernel would call itself %q: want at most %d bytes without spaces, quotes and slashes; its tree "+
				"has files called localversion*",
			b.release, maxReleaseName)
	}
	return final, nil
}

// compare returns an error for every setting that came out otherwise, or whose symbol the tree does not have, with the
// reason.
func (b *build) compare(settings []kconfig.Setting, over []Overridden, data []byte) error {
	final, err := kconfig.ParseConfig(".config", data)
	if err != nil {
		return err
	}
	unmet := kconfig.Compare(settings, final)
	uninvited := uninvited(final)
	tree, unread := kconfig.ReadTree(b.left.FS(maxText), "Kconfig", map[string]string{"SRCARCH": b.Arch.Linux})
	if unread == nil {
		tree.Elsewhere = newElsewhere(b).find
		unmet = append(unmet, absent(tree, settings, over)...)
	} else {
		b.tell("cannot see which options the tree has: " + unread.Error())
	}
	var errs []error
	for _, u := range unmet {
		if unread == nil {
			tree.ExplainUnmet(u, final, settings)
		}
		if u.Setting.Preference && (unread != nil || tree.Has(u.Setting.Symbol)) {
			b.gaveWay = append(b.gaveWay, u)
			b.tell("gave way: " + u.Short())
			continue
		}
		if features.Owns(u.Setting.File) {
			u.Fix = fmt.Sprintf("to do without it: kernel.override: [{option: CONFIG_%s, value: %s, reason: ...}] in "+
				"the recipe", u.Setting.Symbol, overrideValue(u.Got))
		}
		errs = append(errs, u)
	}
	for _, w := range uninvited {
		why := w.Symbol
		if unread == nil {
			why = tree.Explain(kconfig.Setting{Symbol: w.Symbol, Value: kconfig.No}, final, settings)
		}
		errs = append(errs, fmt.Errorf(
			"CONFIG_%s=%s came into the configuration although nobody asked for it (%s): %s", w.Symbol, w.Value, why,
			forbidden.Why(w)))
	}
	if unread != nil && len(errs) > 0 {
		errs = append(errs, fmt.Errorf("cannot say why: %w", unread))
	}
	return errors.Join(errs...)
}

// absent lists settings that a symbol be off which the tree does not have: nobody can tell them from misspelt ones. An
// override that puts a feature's setting aside may say so of any.
func absent(tree *kconfig.Tree, settings []kconfig.Setting, over []Overridden) []*kconfig.Unmet {
	aside := map[string]bool{}
	for _, o := range over {
		if len(o.Settings) > 0 {
			aside[strings.TrimPrefix(o.Option, "CONFIG_")] = true
		}
	}
	var out []*kconfig.Unmet
	for _, w := range settings {
		if w.Value == kconfig.No && !tree.Has(w.Symbol) && !aside[w.Symbol] {
			out = append(out, &kconfig.Unmet{Setting: w, Got: kconfig.No})
		}
	}
	return out
}

// tellEmpty leaves a line in the build's log for each feature that asks for nothing on the architecture although it
// does on others.
func (b *build) tellEmpty() error {
	fs, err := b.features()
	if err != nil {
		return err
	}
	for _, f := range fs {
		if f.Elsewhere && len(f.Fragment.For(b.Arch.Name, b.sourceVersion)) == 0 {
			b.tell(fmt.Sprintf("the feature %s asks for nothing on %s with Linux %s", f.Name, b.Arch.Name,
				b.sourceVersion))
		}
	}
	return nil
}

// tell leaves a line in the build's log.
func (b *build) tell(s string) {
	b.Progress.Send(progress.Event{Step: step, Kind: progress.Log, Message: s})
	if b.Log != nil {
		fmt.Fprintf(b.Log, "katabuild: %s\n", s)
	}
}
