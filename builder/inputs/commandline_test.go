package inputs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder/recipe"
	"github.com/katabuild/katabuild/internal/arch"
)

func lineRecipe(t *testing.T, more, words string) (*recipe.Recipe, arch.Arch) {
	t.Helper()
	v, err := Vocabulary()
	if err != nil {
		t.Fatal(err)
	}
	text := "version: 1\nname: a\nkernel: {source: {tree: linux}, features: [tiny]}\n" + more +
		"\nboot: {command_line: [" + words + "]}\n"
	r, err := recipe.Parse("r.yaml", []byte(text), v)
	if err != nil {
		t.Fatal(err)
	}
	a, err := arch.Parse(r.Arch)
	if err != nil {
		t.Fatal(err)
	}
	return r, a
}

func TestTheCommandLineIsMeasuredAsTheBootMakesIt(t *testing.T) {
	for _, more := range []string{"", "rootfs: {}\nimage: {verity: false}", "rootfs: {}\nimage: {}",
		"rootfs: {init: systemd}\nimage: {layout: bare}"} {
		r, a := lineRecipe(t, more, "")
		own, err := longestLine(r, a)
		if err != nil {
			t.Fatal(err)
		}
		left := a.CommandLine - 1 - len(own) - 1 // a space
		word := func(n int) string { return "a=" + strings.Repeat("x", n-2) }
		if r, _ := lineRecipe(t, more, word(left)); checkLine(r) != nil {
			t.Errorf("%s: a word that just fits: %v", more, checkLine(r))
		}
		r, _ = lineRecipe(t, more, word(left+1))
		want := fmt.Sprintf("its words have %d bytes, and this guest's boot adds up to %d; a kernel for x86_64 "+
			"keeps 2047: at most %d are left", left+1, len(own)+1, left)
		if err := checkLine(r); err == nil || !strings.HasPrefix(err.Error(), "r.yaml:") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: got  %v\nwant %s", more, err, want)
		}
		if strings.Contains(more, "systemd") && !strings.Contains(own, " root=/dev/dm-0 ") {
			t.Errorf("the root is missing from %s", own)
		}
	}
}

func TestWordsOfTheBootAreToldAtTheirLine(t *testing.T) {
	for word, ours := range map[string]string{
		"quiet": "quiet", "panic=5": "panic=-1", "reboot=k": "reboot=t", `'"panic=5"'`: "panic=-1",
		"tsc=unstable": "tsc=reliable", "no_timer_check": "no_timer_check",
	} {
		r, _ := lineRecipe(t, "", "a, "+word)
		if err := checkLine(r); err == nil || !strings.HasPrefix(err.Error(), "r.yaml:5:") ||
			!strings.Contains(err.Error(), "the boot says "+ours+" itself") {
			t.Errorf("%s: got %v", word, err)
		}
	}
	r, _ := lineRecipe(t, "", `quietly, "panic_on_warn=1", 'dyndbg="file x.c +p"', "rootflags=data=ordered"`)
	if err := checkLine(r); err != nil {
		t.Error(err)
	}
}
