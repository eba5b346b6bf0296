package index_test

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

func blob(s string) index.Blob { return index.Blob{Digest: digest.Of([]byte(s)), Size: int64(len(s))} }

// sample is an index of the sample guest, twice.
func sample() *index.Index {
	x := &index.Index{Version: index.Version, Channel: "stable", Time: 1700000000}
	for _, variant := range []string{"debug", ""} { // the writer sorts
		g := index.Of(documenttest.Manifest(), 8, digest.Of([]byte("manifest")))
		g.Version, g.Variant = "1.4.0", variant
		g.Report, g.Verdict, g.Provenance = blob("report"), blob("verdict"), blob("provenance")
		pinned := blob("lock")
		g.Lock = &pinned
		list := blob("chunks")
		g.Artefacts[0].Chunks = &list
		if variant == "" {
			recipe := blob("recipe")
			g.Recipe = &recipe
		}
		x.Guests = append(x.Guests, g)
	}
	x.Programs = []index.Program{{Name: "katabuild", Version: "1.4.0", Arch: "x86_64", Blob: blob("katabuild")},
		{Name: "kata-runtime", Version: "1.4.0", Arch: "aarch64", Blob: blob("kata-runtime")}} // the writer sorts
	x.Sources = []index.Blob{blob("source")}
	notes := blob("notes")
	x.Notes = &notes
	return x
}

func encode(t testing.TB, x *index.Index) []byte {
	t.Helper()
	data, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheIndexKeepsItsForm(t *testing.T) {
	data := encode(t, sample())
	golden.Check(t, "index.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := index.Decode(b); return err })
}

// TestAnIndexOfTheVersionBeforeIsWrittenAgain keeps releases of the version before readable, and in their one form.
func TestAnIndexOfTheVersionBeforeIsWrittenAgain(t *testing.T) {
	old, err := os.ReadFile("testdata/index-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Decode(old)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encode(t, x), old) {
		t.Error("it is written in other bytes")
	}
	of := blob("lock")
	x.Guests[0].Lock = &of
	if _, err := x.Encode(); err == nil || !strings.Contains(err.Error(), "version 1 has nothing of version 2") {
		t.Errorf("a field of version 2 in version 1: %v", err)
	}
}

func TestAnIndexThatMakesNoSenseIsRefused(t *testing.T) {
	for _, c := range []struct {
		want   string
		reason refusal.Reason
		spoil  func(*index.Index)
	}{
		{"two guests sample 1.4.0 x86_64", refusal.Twice, func(x *index.Index) { x.Guests[0].Variant = "" }},
		{"two artefacts are called", refusal.Twice, func(x *index.Index) {
			x.Guests[0].Artefacts[1].Name = x.Guests[0].Artefacts[0].Name
		}},
		{"stays in its folder", refusal.Path, func(x *index.Index) { x.Guests[0].Artefacts[0].Name = "../bzImage" }},
		{"stays in its folder", refusal.Path, func(x *index.Index) { x.Guests[0].Artefacts[0].Name = "/bzImage" }},
		{"stays in its folder", refusal.Path, func(x *index.Index) { x.Guests[0].Artefacts[0].Name = "" }},
		{"stays in its folder", refusal.Path,
			func(x *index.Index) { x.Guests[0].Artefacts[0].Name = "manifest.json" }},
		{"MAJOR.MINOR.PATCH", "", func(x *index.Index) { x.Guests[0].Version = "1.4" }},
		{"MAJOR.MINOR.PATCH", "", func(x *index.Index) { x.Guests[0].Version = "1.4.0+build" }},
		{"unknown architecture", "", func(x *index.Index) { x.Guests[0].Arch = "vax" }},
		{`channel ""`, "", func(x *index.Index) { x.Channel = "" }},
		{`name "a/b"`, "", func(x *index.Index) { x.Guests[0].Name = "a/b" }},
		{`variant "-"`, "", func(x *index.Index) { x.Guests[0].Variant = "-" }},
		{"0 guests", "", func(x *index.Index) { x.Guests = nil }},
		{"want a digest", "", func(x *index.Index) { x.Guests[0].Report.Digest = "" }},
		{"want a digest", "", func(x *index.Index) { x.Notes.Size = -1 }},
		{"bytes here and", "", func(x *index.Index) { x.Guests[0].Report.Size++ }},
		{"two programs katabuild", refusal.Twice, func(x *index.Index) {
			x.Programs[0].Name, x.Programs[1].Name, x.Programs[1].Arch = "katabuild", "katabuild", x.Programs[0].Arch
		}},
		{`name "../x"`, "", func(x *index.Index) { x.Programs[0].Name = "../x" }},
		{"unknown architecture", "", func(x *index.Index) { x.Programs[0].Arch = "vax" }},
		{"stands twice", "", func(x *index.Index) { x.Sources = append(x.Sources, x.Sources[0]) }},
		{"a recipe without a lock", "", func(x *index.Index) {
			x.Guests[0].Recipe, x.Guests[0].Lock = x.Guests[0].Lock, nil
		}},
		{`kind "x"`, "", func(x *index.Index) { x.Guests[0].Artefacts[0].Kind = "x" }},
	} {
		x := sample()
		c.spoil(x)
		_, err := x.Encode()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if r, ok := errors.AsType[*refusal.Error](err); c.reason != "" && (!ok || r.Reason != c.reason) {
			t.Errorf("got %v, want the refusal %q", err, c.reason)
		}
	}
}

func TestVersionsAreOrderedAsSemverHasIt(t *testing.T) {
	order := []string{"0.9.9", "1.0.0-rc.1", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0", "1.0.1", "1.10.0"}
	x := sample()
	g := x.Guests[0]
	x.Guests = nil
	for _, v := range []int{3, 0, 6, 2, 5, 1, 4} {
		g.Version = order[v]
		x.Guests = append(x.Guests, g)
	}
	encode(t, x)
	for i, g := range x.Guests {
		if g.Version != order[i] {
			t.Errorf("%s stands where %s should", g.Version, order[i])
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte(`{"version": 1, "guests": [{"artefacts": null}]}`)) // a list that is null
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := index.Decode(data)
		if err != nil {
			if _, ok := errors.AsType[*refusal.Error](err); !ok {
				t.Errorf("%v is no refusal", err)
			}
			return
		}
		if !bytes.Equal(encode(t, x), data) {
			t.Error("accepted bytes that are not written again")
		}
	})
}

func TestAProgramIsForItsArchitecture(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	of, err := arch.FromGo(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	if err := index.CheckProgram("self", of.Name, data[:index.ProgramHeader]); err != nil {
		t.Error(err)
	}
	for _, a := range arch.All() {
		if err := index.CheckProgram("self", a.Name, data[:index.ProgramHeader]); (err == nil) != (a.Name == of.Name) {
			t.Errorf("%s: %v", a.Name, err)
		}
		if err := index.CheckProgram("script", a.Name, []byte("#!/bin/sh\necho a program\n")); err == nil {
			t.Errorf("a script is a program for %s", a.Name)
		}
	}
}
