package cost

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/katabuild/katabuild/kernel/kbuild"
	"github.com/katabuild/katabuild/kernel/kconfig"
	"github.com/katabuild/katabuild/kernel/makelog"
	"github.com/katabuild/katabuild/kernel/menu"
)

// options are the Kconfig files of a small tree.
const options = `
config NET
	bool "Networking"
	select CRC
config INET
	bool "TCP"
	depends on NET
	imply TUNNEL
config TUNNEL
	bool
config FS
	bool "Files"
	select CRC
	select MORE if NET
config MORE
	bool "More"
config CRC
	bool
config DEFAULTED
	def_bool y
`

// small is a kernel of 8 objects, each of which takes a power of two of milliseconds and of bytes. The last is one of
// the build's own programs.
func small(t *testing.T) Kernel {
	t.Helper()
	tree, err := kconfig.ReadTree(fstest.MapFS{"Kconfig": {Data: []byte(options)}}, "Kconfig", nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(symbol, file string) kconfig.Setting {
		return kconfig.Setting{Symbol: symbol, Value: "y", File: file}
	}
	m := &menu.Kernel{Tree: tree, Settings: []kconfig.Setting{ask("NET", "net"), ask("INET", "net"), ask("FS", "files"),
		ask("MORE", "my.config")}, Feature: func(file string) string {
		if strings.Contains(file, ".") {
			return ""
		}
		return file
	}, Final: kconfig.NewConfig(nil)}
	m.Final = m.Foresee(m.Settings)
	makefiles, err := kbuild.Read(fstest.MapFS{
		"Makefile": {},
		"Kbuild": {Data: []byte("obj-y += main.o lib/ arch/x/\nobj-$(CONFIG_NET) += net/\n" +
			"obj-$(CONFIG_FS) += fs.o\n")},
		"lib/Makefile": {Data: []byte("obj-$(CONFIG_CRC) += crc.o\nobj-$(CONFIG_DEFAULTED) += def.o\n")},
		"net/Makefile": {Data: []byte("obj-y += sock.o\nobj-$(CONFIG_INET) += tcp.o\n" +
			"obj-$(CONFIG_TUNNEL) += tun.o\n")},
		"arch/x/Makefile":                 {},
		"arch/x/Kbuild":                   {Data: []byte("obj-y += boot/ kernel/\n")},
		"arch/x/boot/Makefile":            {Data: []byte("obj-y += main.o compressed/ dts/\n")},
		"arch/x/boot/dts/Makefile":        {Data: []byte("obj-y += board.dtb.o\n")},
		"arch/x/boot/compressed/Makefile": {Data: []byte("obj-y += piggy.o\n")},
		"arch/x/kernel/Makefile":          {Data: []byte("obj-y += boot.o\n")},
	}, "x", m.Final.On)
	if err != nil {
		t.Fatal(err)
	}
	k := Kernel{Menu: m, Makefiles: makefiles}
	for i, o := range []string{"main.o", "fs.o", "lib/crc.o", "lib/def.o", "net/sock.o", "net/tcp.o", "net/tun.o",
		"scripts/tool.o"} {
		k.Objects = append(k.Objects, makelog.Compiled{Object: o, Cached: i%2 == 0, CPU: time.Millisecond << i,
			Bytes: 1000 << i})
	}
	return k
}

func TestEveryObjectBelongsToOneFeature(t *testing.T) {
	r, err := Of(small(t))
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != (Sum{8, 255, 127000}) || r.Cached != 4 || !r.Sizes || r.BootUS != 0 {
		t.Errorf("%+v", r)
	}
	want := []Feature{
		{Name: tools, Sum: Sum{1, 128, 0}},
		{Name: "net", Options: 3, Sum: Sum{3, 16 + 32 + 64, 112000}}, // INET implies TUNNEL
		{Name: nobody, Options: 1, Sum: Sum{1, 8, 8000}},
		{Name: "files", Options: 2, Sum: Sum{2, 2 + 4, 6000}}, // of those that select CRC, FS is the first by name
		{Name: alwaysBuilt, Sum: Sum{1, 1, 1000}},
		{Name: "my.config", Options: 1},
	}
	if !slices.Equal(r.Features, want) {
		t.Errorf("got  %+v\nwant %+v", r.Features, want)
	}
}

func TestWhatUnpacksAKernelIsNoPartOfIt(t *testing.T) {
	k := small(t)
	for _, o := range []string{"arch/x/boot/compressed/piggy.o", "arch/x/boot/main.o", "arch/x/boot/dts/board.dtb.o",
		"arch/x/kernel/boot.o"} {
		k.Objects = append(k.Objects, makelog.Compiled{Object: o, CPU: time.Second, Bytes: 1 << 20})
	}
	r, err := Of(k)
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != (Sum{12, 4255, 127000 + 2<<20}) || k.Objects[8].Bytes != 1<<20 {
		t.Errorf("%+v", r.Total)
	}
}

func TestWhatAnOptionBrings(t *testing.T) {
	r, err := Of(small(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range r.Options {
		got = append(got, fmt.Sprint(o.Option, " ", o.Feature, " ", o.Asked, " alone ", o.Alone.CPUMS, " gone ",
			o.Gone.CPUMS, " ", o.Held))
	}
	want := []string{
		"CONFIG_NET net true alone 112 gone 112 []",
		"CONFIG_INET net true alone 32 gone 96 []", // TUNNEL comes by it alone
		"CONFIG_TUNNEL net false alone 64 gone 64 []",
		"CONFIG_DEFAULTED of no feature false alone 8 gone 8 []",
		"CONFIG_CRC files false alone 4 gone 4 []",
		"CONFIG_FS files true alone 2 gone 2 []", // NET selects CRC too
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAnOptionThatOthersSelectIsHeld(t *testing.T) {
	k := small(t)
	for i := range k.Menu.Settings {
		if k.Menu.Settings[i].Symbol == "MORE" {
			k.Menu.Settings[i].Symbol = "CRC"
		}
	}
	r, err := Of(k)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Options, func(o Option) bool { return o.Option == "CONFIG_CRC" })
	if o := r.Options[i]; o.Feature != "my.config" || o.Gone.Objects != 0 || o.Alone.Objects != 1 ||
		!slices.Equal(o.Held, []string{"CONFIG_FS", "CONFIG_NET"}) {
		t.Errorf("%+v", o)
	}
}

func TestInitcallsBelongToTheirObjects(t *testing.T) {
	k := small(t)
	k.Boot = &Boot{
		SystemMap: []byte("ffffffff81000010 t tcp_init\nffffffff81000020 T sock_init\nffffffff81000020 t alias\n" +
			"ffffffff82000000 t __initcall__kmod_tcp__12_34_tcp_init6\n" +
			"ffffffff82000008 d __initcall__kmod_sock__13_7_sock_init4s\n" +
			"ffffffff82000010 d __initcall__kmod_unheard_of__1_2_late_onelate\n" +
			"ffffffff82000010 d __initcall__kmod_main__1_2_main_startearly\n0000000000000000 A zero\n"),
		Console: []byte("[    0.1] calling  tcp_init+0x0/0x10 @ 1\r\n" +
			"[    0.1] initcall tcp_init+0x0/0x10 returned 0 after 1500 usecs\r\n" +
			"initcall 0xffffffff81000020 returned 0 after 20 usecs\n" +
			"initcall main_start+0x0/0x10 returned -19 after 3 usecs\n" +
			"initcall unknown_one+0x0/0x10 returned 0 after 400 usecs\n"),
	}
	r, err := Of(k)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, f := range r.Features {
		if f.BootUS > 0 {
			got[f.Name] = f.BootUS
		}
	}
	if r.BootUS != 1923 || fmt.Sprint(got) != fmt.Sprint(map[string]int64{"net": 1520, alwaysBuilt: 3, several: 400}) {
		t.Errorf("%d: %v", r.BootUS, got)
	}
	for _, o := range r.Options {
		want := map[string]int64{"CONFIG_NET": 1520, "CONFIG_INET": 1500}[o.Option]
		if o.BootUS != want {
			t.Errorf("%s takes %d µs, want %d", o.Option, o.BootUS, want)
		}
	}
	k.Boot = &Boot{Console: []byte("nothing\n")}
	if _, err := Of(k); err == nil {
		t.Error("a kernel that says nothing was measured")
	}
}

func TestAReasonIsReadStrictly(t *testing.T) {
	got, err := parseReasons("r", "# why\nA kept: is needed\n\nB dropped: nobody uses it: never\n"+
		"C split far: some do\n")
	want := []Reason{{"CONFIG_A", "kept", "", "is needed"}, {"CONFIG_B", "dropped", "", "nobody uses it: never"},
		{"CONFIG_C", "split", "far", "some do"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"A kept", "A kept: ", "A kept far: b", "A split: b", "A: b", "A thrown: b",
		"A kept: b\nA dropped: c"} {
		if _, err := parseReasons("r", bad); err == nil || !strings.HasPrefix(err.Error(), "r:") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzBoot: whatever a console and a System.map hold, reading them ends.
func FuzzBoot(f *testing.F) {
	f.Add([]byte("initcall 0x10 returned 0 after 1 usecs\n"), []byte("10 t a\n20 d __initcall__kmod_m__1_2_a6\n"))
	f.Add([]byte("initcall a+0x0/0x1 [m] returned -1 after 1 usecs"), []byte("zz T x\n"))
	f.Fuzz(func(t *testing.T, console, systemMap []byte) {
		all, err := Boot{console, systemMap}.initcalls()
		if err == nil && len(all) == 0 {
			t.Error("no initcalls and no error")
		}
	})
}
