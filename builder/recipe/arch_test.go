package recipe

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
)

const placed = `version: 1
name: sample
kernel:
  source:
    debian: {package: "linux-source-{arch}"}
  features: [tiny, vsock]
  fragments: ["{debian_arch}.config"]
rootfs:
  layers:
    - debian:
        packages: [app]
        paths: {exclude: ["/usr/lib/{multiarch}/gconv/*"]}
    - tar: root-{go_arch}.tar
    - files: [{path: "/usr/lib/{multiarch}/x", text: "{arch} stays"}]
  remove: ["/opt/{arch}/*"]
boot:
  memory: 1GiB
`

func TestWordsStandForTheArchitecture(t *testing.T) {
	r, err := Parse("recipe.yaml", []byte(placed), vocabulary)
	if err != nil {
		t.Fatal(err)
	}
	l := r.Rootfs.Layers
	for _, c := range [][2]string{
		{r.Kernel.Source.Debian.Package, "linux-source-x86_64"}, {r.Kernel.Fragments[0], "amd64.config"},
		{l[0].Debian.Paths.Exclude[0], "/usr/lib/x86_64-linux-gnu/gconv/*"}, {l[1].Tar, "root-amd64.tar"},
		{l[2].Files[0].Path, "/usr/lib/x86_64-linux-gnu/x"}, {*l[2].Files[0].Text, "{arch} stays"},
		{r.Rootfs.Remove[0], "/opt/x86_64/*"},
	} {
		if c[0] != c[1] {
			t.Errorf("%q, want %q", c[0], c[1])
		}
	}
	if r.Other() {
		t.Error("it was read for another architecture")
	}
	_, err = Parse("recipe.yaml", []byte(strings.Replace(placed, "/opt/{arch}", "/opt/{archi}", 1)), vocabulary)
	if err == nil || !strings.HasPrefix(err.Error(),
		`recipe.yaml:15:12: unknown placeholder "{archi}"; did you mean "{arch}"?`) {
		t.Errorf("%v", err)
	}
}

func TestOneRecipeIsReadForEveryArchitecture(t *testing.T) {
	v := vocabulary
	for _, a := range arch.All() {
		v.Arch = a.Name
		r, err := Parse("recipe.yaml", []byte(placed+"  machine: microvm\n"), v)
		if err != nil {
			t.Fatalf("%s: %v", a.Name, err)
		}
		if want := "/opt/" + a.Name + "/*"; r.Rootfs.Remove[0] != want || r.Arch != a.Name {
			t.Errorf("%s: %q", a.Name, r.Rootfs.Remove[0])
		}
		if r.Other() != (a.Name != "x86_64") {
			t.Errorf("%s: other is %v", a.Name, r.Other())
		}
		if _, ok := a.FindMachine(r.Boot.Machine); !ok {
			t.Errorf("%s: machine %q", a.Name, r.Boot.Machine)
		}
	}
}

func TestMemoryFitsTheMachine(t *testing.T) {
	text := strings.Replace(placed, "memory: 1GiB", "memory: 300MiB", 1)
	v := vocabulary
	v.Arch = "ppc64le"
	if r, err := Parse("recipe.yaml", []byte(text), v); err != nil || r.Boot.MemoryMiB() != 512 {
		t.Errorf("%+v, %v", r, err)
	}
	_, err := Parse("recipe.yaml", []byte(strings.Replace(text, "name: sample", "name: sample\narch: ppc64le", 1)),
		vocabulary)
	if err == nil || !strings.Contains(err.Error(), "the machine pseries has multiples of 256MiB") {
		t.Errorf("%v", err)
	}
}
