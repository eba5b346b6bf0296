package kbuild

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
)

// tree is a file system of Makefiles.
func tree(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{"Makefile": {Data: []byte("include arch/$(SRCARCH)/Makefile\n")}}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

// read reads a tree where the options are on that are listed, as y unless they say otherwise.
func read(t testing.TB, files map[string]string, on ...string) *Tree {
	t.Helper()
	r, err := Read(tree(files), "x86", values(on))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func values(on []string) func(string) string {
	all := map[string]string{}
	for _, o := range on {
		name, v, ok := strings.Cut(o, "=")
		if !ok {
			v = "y"
		}
		all[name] = v
	}
	return func(symbol string) string { return all[symbol] }
}

func TestWhatAnObjectIsBuiltFor(t *testing.T) {
	for _, c := range []struct {
		name   string
		kbuild string
		on     []string
		want   string // of a.o; "" is not built
	}{
		{"always", "obj-y += a.o", nil, "[[]]"},
		{"by an option", "obj-$(CONFIG_A) += a.o", []string{"A"}, "[[A]]"},
		{"not by one that is off", "obj-$(CONFIG_A) += a.o", nil, ""},
		{"as a module", "obj-$(CONFIG_A) += a.o", []string{"A=m"}, "[[A]]"},
		{"in braces", "obj-${CONFIG_A} += a.o", []string{"A"}, "[[A]]"},
		{"among others, on two lines", "obj-$(CONFIG_A) := b.o \\\n\ta.o # why\n", []string{"A"}, "[[A]]"},
		{"by either of two options", "obj-$(CONFIG_A) += a.o\nobj-$(CONFIG_B) += a.o", []string{"A", "B"}, "[[A] [B]]"},
		{"by one and always", "obj-$(CONFIG_A) += a.o\nobj-y += a.o", []string{"A"}, "[[]]"},
		{"within ifdef", "ifdef CONFIG_A\nobj-$(CONFIG_B) += a.o\nendif", []string{"A", "B"}, "[[A B]]"},
		{"within ifeq", "ifeq ($(CONFIG_A),y)\n  obj-y += a.o\nendif", []string{"A"}, "[[A]]"},
		{"within ifeq with quotes", "ifeq \"$(CONFIG_A)\" 'y'\nobj-y += a.o\nendif", []string{"A"}, "[[A]]"},
		{"within ifeq without a blank", "ifeq($(CONFIG_A),y)\nobj-y += a.o\nendif", []string{"A"}, "[[A]]"},
		{"not where ifeq is of a module", "ifeq ($(CONFIG_A),y)\nobj-y += a.o\nendif", []string{"A=m"}, ""},
		{"both at once", "ifeq ($(CONFIG_A)$(CONFIG_B),yy)\nobj-y += a.o\nendif", []string{"A", "B"}, "[[A B]]"},
		{"either, by ifneq", "ifneq ($(CONFIG_A)$(CONFIG_B),)\nobj-y += a.o\nendif", []string{"A", "B"}, "[[A] [B]]"},
		{"the one that is on, by ifneq", "ifneq ($(CONFIG_A)$(CONFIG_B),)\nobj-y += a.o\nendif", []string{"B"},
			"[[B]]"},
		{"else", "ifdef CONFIG_A\nelse\nobj-y += a.o\nendif", nil, "[[]]"},
		{"not else", "ifdef CONFIG_A\nelse\nobj-y += a.o\nendif", []string{"A"}, ""},
		{"else of ifndef", "ifndef CONFIG_A\nelse\nobj-y += a.o\nendif", []string{"A"}, "[[]]"},
		{"else ifeq", "ifeq ($(CONFIG_A),y)\nelse ifeq ($(CONFIG_B),y)\nobj-y += a.o\nelse\nendif", []string{"B"},
			"[[B]]"},
		{"not a second branch", "ifeq ($(CONFIG_A),y)\nelse ifeq ($(CONFIG_B),y)\nobj-y += a.o\nendif",
			[]string{"A", "B"}, ""},
		{"what only a build can decide", "ifeq ($(call cc-option,-x),)\nobj-$(CONFIG_A) += a.o\nendif", []string{"A"},
			"[[A]]"},
		{"its other branch", "ifeq ($(shell true),)\nX := y\nelse\nobj-y += a.o\nendif", nil, "[[]]"},
		{"by a composite", "obj-$(CONFIG_A) += x.o\nx-y := a.o\n", []string{"A"}, "[[A]]"},
		{"by -objs", "obj-$(CONFIG_A) += x.o\nx-objs := a.o b.o\n", []string{"A"}, "[[A]]"},
		{"by an option of a composite", "obj-$(CONFIG_A) += x.o\nx-$(CONFIG_B) := a.o\n", []string{"A", "B"},
			"[[A B]]"},
		{"by a variable", "files := b.o a.o\nobj-$(CONFIG_A) += $(files)", []string{"A"}, "[[A]]"},
		{"by a variable with options", "f-$(CONFIG_B) := a.o\nobj-$(CONFIG_A) += $(f-y)", []string{"A", "B"},
			"[[A B]]"},
		{"by subst", "obj-$(subst m,y,$(CONFIG_A)) += a.o", []string{"A=m"}, "[[A]]"},
		{"by if", "obj-$(if $(CONFIG_A)$(CONFIG_B),y) += a.o", []string{"A", "B"}, "[[A] [B]]"},
		{"by and", "obj-$(and $(CONFIG_A),$(CONFIG_B)) += a.o", []string{"A", "B"}, "[[A B]]"},
		{"by or", "obj-$(or $(CONFIG_A),$(CONFIG_B)) += a.o", []string{"B"}, "[[B]]"},
		{"by addprefix and addsuffix", "obj-y += $(addprefix ./,$(addsuffix .o,a))", nil, "[[]]"},
		{"by patsubst", "obj-y += $(patsubst %.c,%.o,b.c a.c)", nil, "[[]]"},
		{"by a reference that substitutes", "files := a.c\nobj-y += $(files:.c=.o)", nil, "[[]]"},
		{"not what filter-out takes", "obj-y += $(filter-out a%,b.o a.o)", nil, ""},
		{"by a word with an option in it", "obj-y += a$(CONFIG_A:y=).o", []string{"A"}, "[[A]]"},
		{"for a library", "lib-$(CONFIG_A) += a.o", []string{"A"}, "[[A]]"},
		{"besides", "extra-y += a.o", nil, "[[]]"},
		{"by an include", "include $(src)/more.mk", []string{"A"}, "[[A]]"},
		{"not by a command", "all:\n\tobj-y += a.o\n", nil, ""},
		{"behind a command", "all: b\n\techo\n\nobj-y += a.o\n", nil, "[[]]"},
		{"not in a definition", "define x\nobj-y += a.o\nendef\n", nil, ""},
		{"not in a comment", "# obj-y += a.o\n", nil, ""},
		{"anew", "obj-y += a.o\nobj-y := b.o\n", nil, ""},
		{"not anew", "obj-y += a.o\nobj-y ?= b.o\n", nil, "[[]]"},
		{"with an architecture's variable", "obj-y += a$(EMPTY).o", nil, "[[]]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := read(t, map[string]string{"Kbuild": "obj-y += dir/\n", "dir/Makefile": c.kbuild,
				"dir/more.mk":       "obj-$(CONFIG_A) += a.o",
				"arch/x86/Makefile": "EMPTY :=\nexport EMPTY OTHER\n"}, c.on...)
			got := ""
			if n, ok := r.Objects["dir/a.o"]; ok {
				got = fmt.Sprint(n)
			}
			if got != c.want {
				t.Errorf("needs %s, want %s", got, c.want)
			}
		})
	}
}

func TestFoldersHandOnWhatTheyNeed(t *testing.T) {
	r := read(t, map[string]string{
		"Kbuild": "obj-y += arch/$(SRCARCH)/\nobj-$(CONFIG_NET) += net/\n" +
			"obj-$(CONFIG_X) += shared/\n",
		"arch/x86/Kbuild": "obj-y += kernel/\nobj-$(CONFIG_X) += ../../shared/\n",
		"arch/x86/Makefile": "drivers-$(CONFIG_PCI) += arch/x86/pci/\nlibs-y += arch/x86/lib/ $(LIBGCC)\n" +
			"head-y := arch/x86/h.o\n",
		"arch/x86/kernel/Makefile": "obj-y += entry.o\n",
		"arch/x86/pci/Makefile":    "obj-y += common.o\n",
		"arch/x86/lib/Makefile":    "lib-y += delay.o\n",
		"net/Makefile":             "obj-y += core/\nobj-$(CONFIG_INET) += ipv4/\nsubdir-$(CONFIG_INET) += blobs\n",
		"net/core/Makefile":        "obj-y += sock.o\n",
		"net/ipv4/Kbuild":          "obj-y := tcp.o\nobj-$(CONFIG_MR) += mr.o\n",
		"net/ipv4/Makefile":        "obj-y := ignored.o\n",
		"net/blobs/Makefile":       "always-y += blob.o\n",
		"shared/Makefile":          "obj-y += both.o\n",
	}, "NET", "INET", "PCI", "MR", "X")
	for object, want := range map[string]string{
		"arch/x86/kernel/entry.o": "[[]]", "arch/x86/pci/common.o": "[[PCI]]", "arch/x86/lib/delay.o": "[[]]",
		"arch/x86/h.o": "[[]]", "net/core/sock.o": "[[NET]]", "net/ipv4/tcp.o": "[[NET INET]]",
		"net/ipv4/mr.o": "[[NET INET MR]]", "net/blobs/blob.o": "[[NET INET]]", "shared/both.o": "[[X]]",
		// What no list names needs what its folder needs.
		"net/ipv4/inner/image.o": "[[NET INET]]",
	} {
		if n, ok := r.Of(object); !ok || fmt.Sprint(n) != want {
			t.Errorf("%s needs %v, want %s", object, n, want)
		}
	}
	for _, object := range []string{"scripts/mod/modpost.o", "o.o"} {
		if n, ok := r.Of(object); ok {
			t.Errorf("%s needs %v, and no Makefile leads to it", object, n)
		}
	}
	if _, ok := r.Objects["net/ipv4/ignored.o"]; ok {
		t.Error("a Makefile beside a Kbuild was read")
	}
}

func TestWithoutAnOptionWhatNeedsItIsGone(t *testing.T) {
	off := func(s string) bool { return s == "A" }
	for want, needs := range map[bool][]Need{
		true:  {always(), one("B"), {{"A"}, {"B"}}, {{"A", "B"}, {"C"}}},
		false: {one("A"), {{"A", "B"}}, {{"A"}, {"B", "A"}}},
	} {
		for _, n := range needs {
			if n.Without(off) != want {
				t.Errorf("%v without A: %v", n, !want)
			}
		}
	}
}

func TestAMakefileThatIsNoneIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"ifdef CONFIG_A\n":              "dir/Makefile:1: no endif",
		"\nendif\n":                     "dir/Makefile:2: endif without a conditional",
		"a := b\nelse\n":                "dir/Makefile:2: else without a conditional",
		"include dir/Makefile\n":        "include each other too deep",
		"obj-y += ./\n":                 "too many folders",
		"obj-y += x/\n":                 "x/Makefile:1: ",
		strings.Repeat("ifdef A\n", 40): "nested too deep",
		doubling(30):                    "a value grows too large",
		"obj-y += $(" + strings.Repeat("$(", 50) + strings.Repeat(")", 51): "a value grows too large",
	} {
		_, err := Read(tree(map[string]string{"Kbuild": "obj-y += dir/\n", "dir/Makefile": text,
			"arch/x86/Makefile": "", "dir/x/Makefile": "endif\n"}), "x86", values(nil))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
	if _, err := Read(fstest.MapFS{}, "x86", values(nil)); err == nil {
		t.Error("a tree without a Makefile was read")
	}
}

// doubling is a Makefile whose last variable would have 2 to the n words.
func doubling(n int) string {
	s := "a0 := x.o\n"
	for i := range n {
		s += fmt.Sprintf("a%d := $(a%d) $(a%d)\n", i+1, i, i)
	}
	return s
}

// FuzzMakefile: whatever a tree's Makefiles hold, reading them ends, and names lie within the tree.
func FuzzMakefile(f *testing.F) {
	f.Add("obj-$(CONFIG_A) += a.o dir/\n", "ifneq ($(CONFIG_A)$(CONFIG_B),)\nobj-y += $(addprefix x/,b.o)\nendif\n")
	f.Add("obj-y += ../../out.o ..// $(src)/ /abs/ dir/\n", "obj-y += ./ ../ ../dir/\n")
	f.Add("obj-y += $(subst ,a,b) $(subst a,aa$(a),$(a)) $$ $( ${ $", "a:b:=c\n$(a):=d\n:=\n=\n")
	f.Add("define\nendef\nendef\nexport a b:=c\noverride x+=y\n", "include Kbuild $(srctree)/dir/Makefile\n")
	f.Add(doubling(20), "ifeq (\nifeq ()\nelse ifeq\nelse x y\nendif\nendif\n")
	f.Fuzz(func(t *testing.T, root, dir string) {
		r, err := Read(tree(map[string]string{"Kbuild": root, "dir/Makefile": dir, "arch/x86/Makefile": dir}), "x86",
			values([]string{"A", "B=m", "C=\"text\"", "D=0x10"}))
		if err != nil {
			return
		}
		for _, all := range []map[string]Need{r.Objects, r.Composites} {
			for name, n := range all {
				if len(n) == 0 || len(n) > maxAlternatives || strings.HasPrefix(name, "/") {
					t.Errorf("%q needs %v", name, n)
				}
			}
		}
	})
}
