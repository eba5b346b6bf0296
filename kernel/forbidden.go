package kernel

import (
	"io/fs"
	"strings"

	"github.com/katabuild/katabuild/kernel/forbidden"
	"github.com/katabuild/katabuild/kernel/kconfig"
)

// uninvited lists what a default or another option switched on in the final configuration, and nobody could have asked
// for.
func uninvited(final *kconfig.Config) []kconfig.Setting {
	var out []kconfig.Setting
	drawsNothing := final.Get("MODULE_SIG_KEY") == `""`
	for _, s := range final.Symbols() {
		if drawsNothing && (s == "MODULE_SIG" || s == "MODULE_SIG_FORCE") {
			continue
		}
		w := kconfig.Setting{Symbol: s, Value: final.Get(s)}
		if s != symbolLocalVersion && s != symbolLocalVersionAuto && forbidden.Why(w) != "" {
			out = append(out, w)
		}
	}
	return out
}

// localVersions is what files called localversion* at the top of a tree add to its version: PREEMPT_RT's patch and
// linux-next bring one. Linux: scripts/setlocalversion, collect_files.
func (b *build) localVersions() (string, error) {
	entries, err := fs.ReadDir(b.left.Root().FS(), ".")
	if err != nil {
		return "", err
	}
	all := ""
	for _, e := range entries { // sorted, as the shell sorts them in the C locale
		name := e.Name()
		if !strings.HasPrefix(name, "localversion") || strings.Contains(name, "~") {
			continue
		}
		data, err := b.left.ReadFile(name, maxRelease)
		if err != nil {
			return "", err
		}
		all += strings.TrimRight(string(data), "\n")
	}
	return all, nil
}
