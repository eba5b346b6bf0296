package kernel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/katabuild/katabuild/kernel/features"
	"github.com/katabuild/katabuild/kernel/source"
	"github.com/katabuild/katabuild/kernel/toolchain"
)

// madeUp is a request for a kernel tree whose Makefile is no kernel's: rules stand for what a hostile tree does when it
// is built.
func madeUp(t *testing.T, rules string) Request {
	t.Helper()
	testenv.Require(t, testenv.Tool("make"), testenv.Func(testenv.UserNamespaces,
		func() error { return jail.Check(context.Background()) }))
	tree := t.TempDir()
	asked, err := settingsOf(Request{Arch: x86(t), Features: []string{features.Tiny}})
	if err != nil {
		t.Fatal(err)
	}
	known := "mainmenu \"x\"\n"
	for _, w := range asked {
		known += "config " + w.Symbol + "\n\tbool \"x\"\n"
	}
	for name, text := range map[string]string{
		"Makefile": "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nEXTRAVERSION =\n" + rules,
		"Kconfig":  known,
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := source.TreeDigest(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	return Request{
		Arch: x86(t), SourceKind: source.Tree, Source: tree, SourceDigest: d, Features: []string{features.Tiny},
		Time:      time.Unix(1_700_000_000, 0),
		Toolchain: toolchain.Toolchain{Tools: []toolchain.Tool{{Name: "made up"}}},
		WorkDir:   filepath.Join(t.TempDir(), "work"),
		OutDir:    filepath.Join(t.TempDir(), "out"), Log: io.Discard,
	}
}

// obedient is what a tree does that is configured and built as it should.
const obedient = "mrproper:\n\t@true\nallnoconfig:\n\t@cp $(KCONFIG_ALLCONFIG) .config\nolddefconfig:\n\t@true\n"

// TestATreeThatLeavesLinksReachesNothingOutside builds trees that put links, FIFOs and endless files where the build
// then looks.
func TestATreeThatLeavesLinksReachesNothingOutside(t *testing.T) {
	const secret = "CONFIG_SECRET=\"of the host\"\nCONFIG_LOCALVERSION=\"\"\n"
	release := "echo 6.12.1$$(sed -n 's/^CONFIG_LOCALVERSION=\"\\(.*\\)\"/\\1/p' .config) > " +
		"include/config/kernel.release"
	built := obedient +
		"bzImage vmlinux:\n\tmkdir -p include/config arch/x86/boot; echo x > arch/x86/boot/bzImage; " + release + "; "
	for name, c := range map[string]struct{ rules, want string }{
		"the settings are replaced": {"mrproper:\n\trm -f ../settings.config; ln -s @ " +
			"../settings.config\n%:\n\t@true\n", "Read-only file system"},
		"a link as .config":    {"mrproper:\n\t@true\n%:\n\tln -sf @ .config\n", ".config is a link to \""},
		"a FIFO as .config":    {"mrproper:\n\t@true\n%:\n\tmkfifo .config\n", ".config is a FIFO"},
		"/dev/zero as .config": {"mrproper:\n\t@true\n%:\n\tln -s /dev/zero .config\n", ".config"},
		"a huge .config": {"mrproper:\n\t@true\n%:\n\ttruncate -s 8G .config\n",
			".config has more than"},
		"a link as .config the 2nd time": {"mrproper:\n\t@true\nallnoconfig:\n\tcp $(KCONFIG_ALLCONFIG) " +
			".config\nolddefconfig:\n\tln -sf @ .config\n", ".config"},
		"a link as Makefile": {"mrproper:\n\tln -sf @ Makefile\n%:\n\t@true\n", "Makefile"},
		"a FIFO as Makefile": {"mrproper:\n\trm Makefile; mkfifo Makefile\n%:\n\t@true\n", "Makefile is a FIFO"},
		"a link as Kconfig": {"mrproper:\n\tln -sf @ Kconfig\nallnoconfig:\n\techo 'CONFIG_LOCALVERSION=\"\"' > " +
			".config\nolddefconfig:\n\t@true\n", "cannot say why"},
		"a FIFO as Kconfig": {"mrproper:\n\trm Kconfig; mkfifo Kconfig\nallnoconfig:\n\techo " +
			"'CONFIG_LOCALVERSION=\"\"' > .config\nolddefconfig:\n\t@true\n", "Kconfig is a FIFO"},
		"a link as the release": {obedient + "bzImage:\n\tmkdir -p include/config; ln -s @ " +
			"include/config/kernel.release\n", "include/config/kernel.release"},
		"a link as include": {obedient + "bzImage:\n\tln -s / include\n",
			"include is a link to \"/\", which leads out"},
		"a link as the image": {built + "ln -sf @ arch/x86/boot/bzImage\n", "arch/x86/boot/bzImage"},
		"a FIFO as the image": {built + "rm arch/x86/boot/bzImage; mkfifo arch/x86/boot/bzImage\n",
			"bzImage is a FIFO"},
		"a huge image":      {built + "truncate -s 8G arch/x86/boot/bzImage\n", "bzImage has more than"},
		"a link as vmlinux": {built + "ln -s @ vmlinux\n", "vmlinux"},
		"a FIFO as vmlinux": {built + "mkfifo vmlinux\n", "vmlinux is a FIFO"},
		"a huge vmlinux":    {built + "truncate -s 8G vmlinux\n", "vmlinux has more than"},
	} {
		t.Run(name, func(t *testing.T) {
			victim := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(victim, []byte(secret), 0o600); err != nil {
				t.Fatal(err)
			}
			r := madeUp(t, strings.ReplaceAll(c.rules, "@ ", victim+" "))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := Build(ctx, r)
			runtime.ReadMemStats(&after)
			if err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "of the host") {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != secret {
				t.Errorf("the file outside: %q, %v", got, err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
				t.Errorf("allocated %d bytes", n)
			}
			filepath.WalkDir(r.OutDir, func(p string, d os.DirEntry, err error) error {
				if data, err := os.ReadFile(p); err == nil && bytes.Contains(data, []byte("of the host")) {
					t.Errorf("%s holds the file outside", p)
				}
				return nil
			})
		})
	}
}

// TestACancelledMakeEndsAtOnce has each make of a build ignore every signal, in processes of sessions of their own.
func TestACancelledMakeEndsAtOnce(t *testing.T) {
	const stubborn = "\t@trap '' INT TERM HUP QUIT; setsid sh -c 'trap \"\" INT TERM HUP; while :; do echo >> beat; " +
		"sleep 0.02; done' & sleep 60; sleep 60\n"
	for name, rules := range map[string]string{
		"unpack":    "mrproper:\n" + stubborn,
		"configure": "mrproper:\n\t@true\nallnoconfig:\n" + stubborn,
		"compile":   obedient + "bzImage vmlinux:\n" + stubborn,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := madeUp(t, rules)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			beat := filepath.Join(r.tree(), "beat")
			size := func() int64 {
				fi, err := os.Stat(beat)
				if err != nil {
					return 0
				}
				return fi.Size()
			}
			var ended time.Time
			go func() {
				for ctx.Err() == nil && size() == 0 {
					time.Sleep(10 * time.Millisecond)
				}
				ended = time.Now()
				cancel()
			}()
			_, err := Build(ctx, r)
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			if took := time.Since(ended); took > 2*time.Second {
				t.Errorf("took %v to end", took)
			}
			before := size()
			time.Sleep(200 * time.Millisecond) // in which nothing may happen: ten times as long as a beat
			if after := size(); after != before || before == 0 {
				t.Errorf("a process of the jail is still alive: %d bytes, then %d", before, after)
			}
		})
	}
}
