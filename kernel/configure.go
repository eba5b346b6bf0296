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
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// settingsName is the file of settings below WorkDir, which the configurator reads and no program of the jail can
// change.
const settingsName = "settings.config"

// configure makes the final .config of the tree: everything off that can be, then the settings, then a local version
// that names the result. It returns the file's bytes, also beside the error of settings that came out otherwise.
func (b *build) configure(ctx context.Context) ([]byte, error) {
	b.phase("configure")
	settings, err := b.settings()
	if err != nil {
		return nil, err
	}
	over, err := b.Overridden()
	if err != nil {
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
	if err := b.compare(settings, final); err != nil {
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

// compare returns an error for every setting that came out otherwise, with the reason.
func (b *build) compare(settings []kconfig.Setting, data []byte) error {
	final, err := kconfig.ParseConfig(".config", data)
	if err != nil {
		return err
	}
	unmet := kconfig.Compare(settings, final)
	uninvited := uninvited(final)
	if len(unmet) == 0 && len(uninvited) == 0 {
		return nil
	}
	tree, err := kconfig.ReadTree(b.left.FS(maxText), "Kconfig", map[string]string{"SRCARCH": b.Arch.Linux})
	var errs []error
	for _, u := range unmet {
		if err == nil {
			u.Why = tree.Explain(u.Setting, final, settings)
		}
		if u.Setting.Preference {
			b.gaveWay = append(b.gaveWay, u)
			b.tell("gave way: " + u.Error())
			continue
		}
		var e error = u
		if features.Owns(u.Setting.File) {
			e = fmt.Errorf("%w; to do without it: kernel.override: [{option: CONFIG_%s, value: %s, reason: ...}] in "+
				"the recipe", u, u.Setting.Symbol, overrideValue(u.Got))
		}
		errs = append(errs, e)
	}
	for _, w := range uninvited {
		why := w.Symbol
		if err == nil {
			why = tree.Explain(kconfig.Setting{Symbol: w.Symbol, Value: kconfig.No}, final, settings)
		}
		errs = append(errs, fmt.Errorf(
			"CONFIG_%s=%s came into the configuration although nobody asked for it (%s): %s", w.Symbol, w.Value, why,
			refusal(w)))
	}
	if err != nil && len(errs) > 0 {
		errs = append(errs, fmt.Errorf("cannot say why: %w", err))
	}
	return errors.Join(errs...)
}

// tell leaves a line in the build's log.
func (b *build) tell(s string) {
	b.Progress.Send(progress.Event{Step: step, Kind: progress.Log, Message: s})
	if b.Log != nil {
		fmt.Fprintf(b.Log, "katabuild: %s\n", s)
	}
}

// readSourceVersion reads the version off the tree's Makefile, as the kernel's own make puts it together.
func readSourceVersion(tree *regular.Folder) (string, error) {
	data, err := tree.ReadFile("Makefile", maxText)
	if err != nil {
		return "", err
	}
	parts := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if _, seen := parts[key]; ok && !seen {
			parts[key] = value
		}
	}
	v := parts["VERSION"]
	for _, key := range []string{"PATCHLEVEL", "SUBLEVEL"} {
		if parts[key] != "" {
			v += "." + parts[key]
		}
	}
	v += parts["EXTRAVERSION"]
	if parts["VERSION"] == "" || strings.ContainsAny(v, "$() \t/") {
		return "", fmt.Errorf("the Makefile names no version that we can read (%q)", v)
	}
	return v, nil
}
