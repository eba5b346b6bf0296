package judge_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
	"github.com/katabuild/katabuild/releases/policy"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
	"github.com/katabuild/katabuild/releases/reproduced"
)

func reason(err error) refusal.Reason {
	if r, ok := errors.AsType[*refusal.Error](err); ok {
		return r.Reason
	}
	return ""
}

func key(t testing.TB, kind string) keys.Signer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	_, err := keys.Write(path, kind, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Read(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t testing.TB, data, envelope []byte, by ...keys.Signer) []byte {
	t.Helper()
	for _, s := range by {
		var err error
		if envelope, err = judge.Sign(t.Context(), data, envelope, s); err != nil {
			t.Fatal(err)
		}
	}
	return envelope
}

func TestWhoseSignaturesCount(t *testing.T) {
	alice, bob, mallory := key(t, keys.Ed25519), key(t, keys.ECDSA), key(t, keys.Ed25519)
	both := &policy.Policy{Threshold: 2, Keys: []policy.Key{{Name: "alice", Public: alice.Public()},
		{Name: "bob", Public: bob.Public()}}, Channels: []string{"stable"}}
	data, other := []byte("an index"), []byte("another index")
	of := func(by ...keys.Signer) []byte { return sign(t, data, nil, by...) }
	// Mallory's signature with Alice's name on it.
	forged := bytes.ReplaceAll(of(bob, mallory), []byte(mallory.Public().ID), []byte(alice.Public().ID))
	for _, c := range []struct {
		name     string
		envelope []byte
		want     refusal.Reason
	}{
		{"both", of(alice, bob), ""},
		{"both, in the other order", of(bob, alice), ""},
		{"both, and somebody unknown", of(alice, bob, mallory), ""},
		{"one signature of two", of(alice), refusal.Threshold},
		{"one of two, and somebody unknown", of(bob, mallory), refusal.Threshold},
		{"one of two, twice", of(bob, bob), refusal.Threshold},
		{"an unknown key", of(mallory), refusal.UnknownKey},
		{"nobody", nil, refusal.Unsigned},
		{"another release's", sign(t, other, nil, alice, bob), refusal.Signature},
		{"a signature under another name", resort(forged), refusal.Signature},
		{"no envelope", []byte("{}"), refusal.Document},
	} {
		by, err := judge.Signed(data, c.envelope, both)
		if reason(err) != c.want || (err == nil) != (c.want == "") || err == nil && len(by) != 2 {
			t.Errorf("%s: signed by %q, %v", c.name, by, err)
		}
	}
}

// TestWhoseReproductionsCount has a policy ask for two of three keys.
func TestWhoseReproductionsCount(t *testing.T) {
	alice, bob, mallory := key(t, keys.Ed25519), key(t, keys.ECDSA), key(t, keys.Ed25519)
	named := func(n string, s keys.Signer) policy.Key { return policy.Key{Name: n, Public: s.Public()} }
	p := &policy.Policy{Reproduced: &policy.Reproduced{Threshold: 2, Keys: []policy.Key{named("alice", alice),
		named("bob", bob)}}}
	_, data := releasetest.Release(t, "1.4.0", releasetest.Two()...)
	_, other := releasetest.Release(t, "1.5.0", releasetest.Two()...)
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	of := func(release []byte, by ...keys.Signer) (list []byte) {
		for _, k := range by {
			var err error
			if list, err = releasetest.Reproduced(release, list, k); err != nil {
				t.Fatal(err)
			}
		}
		return list
	}
	half := func(by keys.Signer) []byte { // only one of the guests
		e, err := reproduced.Sign(t.Context(), data, []reproduced.Guest{reproduced.Of(&x.Guests[0])},
			reproduced.Builder{Version: "1"}, by)
		if err != nil {
			t.Fatal(err)
		}
		var l reproduced.List
		err = l.Add(e)
		list, err2 := l.Encode()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return list
	}
	merge := func(a, b []byte) []byte {
		m, err := reproduced.Merge(a, b)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	// Somebody changes a statement that Alice has signed, and leaves the signature.
	changed := func(list []byte, old, by string) []byte {
		l, err := reproduced.DecodeList(list)
		if err != nil {
			t.Fatal(err)
		}
		was := l.Envelopes[0].Payload
		l.Envelopes[0].Payload = bytes.Replace(was, []byte(old), []byte(by), 1)
		if bytes.Equal(was, l.Envelopes[0].Payload) {
			t.Fatalf("nothing was changed: %s", was)
		}
		out, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, c := range []struct {
		name string
		list []byte
		want refusal.Reason
	}{
		{"both", of(data, alice, bob), ""},
		{"both, and somebody unknown", of(data, bob, mallory, alice), ""},
		{"nobody", nil, refusal.Reproduced},
		{"one", of(data, alice), refusal.Reproduced},
		{"one, twice", of(data, alice, alice), refusal.Reproduced},
		{"one, and somebody unknown", of(data, alice, mallory), refusal.Reproduced},
		{"one, and one half of it", merge(of(data, alice), half(bob)), refusal.Reproduced},
		{"both, one of them first half of it", merge(half(bob), of(data, alice, bob)), ""},
		{"statements about another release", of(other, alice, bob), refusal.Statement},
		{"one about another release", merge(of(data, bob), of(other, alice)), refusal.Statement},
		{"one of another guest", changed(of(data, alice), x.Guests[0].Manifest.Digest.Hex(), digest.Of(nil).Hex()),
			refusal.Signature},
		{"one of another katabuild", changed(of(data, alice), "1.0.0", "1.0.1"), refusal.Signature},
		{"no list", []byte("{}"), refusal.Document},
	} {
		if err := judge.Reproduced(data, x, c.list, p); reason(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := judge.Reproduced(data, x, nil, &policy.Policy{}); err != nil {
		t.Errorf("a policy that asks for nobody: %v", err)
	}
	if err := judge.Reproduced(data, x, of(other, alice), &policy.Policy{}); reason(err) != refusal.Statement {
		t.Errorf("a policy that asks for nobody, and a statement about another release: %v", err)
	}
}

// resort puts an envelope into its one form again, where names were exchanged.
func resort(envelope []byte) []byte {
	parts := bytes.SplitN(envelope, []byte("    {\n"), 3)
	end := bytes.Index(parts[2], []byte("    }\n"))
	first, second := bytes.TrimSuffix(parts[1], []byte("    },\n")), parts[2][:end]
	if bytes.Compare(first, second) > 0 {
		first, second = second, first
	}
	out := append(bytes.Clone(parts[0]), "    {\n"...)
	out = append(append(out, first...), "    },\n    {\n"...)
	return append(append(out, second...), parts[2][end:]...)
}

// forge is a release that somebody changes who can sign it, or who takes from others what does not belong there.
type forge struct {
	t   *testing.T
	dir string
	x   *index.Index
	// other is a release of other guests, with the same names.
	other *index.Index
}

func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{t: t}
	other, otherData := releasetest.Release(t, "1.4.0", releasetest.Guest{Mark: " elsewhere"},
		releasetest.Guest{Name: "disk", Arch: "aarch64", Mark: " of disk elsewhere", Disk: true})
	dir, data := releasetest.Release(t, "1.4.0", releasetest.Two()...)
	var err1, err2 error
	f.dir = dir
	f.x, err1 = index.Decode(data)
	f.other, err2 = index.Decode(otherData)
	// Both releases' files are there.
	names, err := filepath.Glob(filepath.Join(other, "blobs/sha256/*"))
	if err := errors.Join(err, err1, err2); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "blobs/sha256", filepath.Base(n)), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// add puts bytes into the release.
func (f *forge) add(data []byte) index.Blob {
	f.t.Helper()
	b := index.Blob{Digest: digest.Of(data), Size: int64(len(data))}
	if err := os.WriteFile(filepath.Join(f.dir, folder.BlobName(b.Digest)), data, 0o644); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *forge) read(b index.Blob) []byte {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, folder.BlobName(b.Digest)))
	if err != nil {
		f.t.Fatal(err)
	}
	return data
}

// rewrite changes the bytes of a file in its place.
func (f *forge) rewrite(b index.Blob, data []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, folder.BlobName(b.Digest)), data, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forge) artefact(guest int, kind string) *index.Artefact {
	for i := range f.x.Guests[guest].Artefacts {
		if a := &f.x.Guests[guest].Artefacts[i]; a.Kind == kind {
			return a
		}
	}
	f.t.Fatalf("guest %d has no %s", guest, kind)
	return nil
}

func TestAReleaseThatDoesNotFitTogetherIsRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*forge)
		want  refusal.Reason
	}{
		{"nothing", func(*forge) {}, ""},
		{"a swapped kernel under the old digest", func(f *forge) {
			f.rewrite(f.artefact(1, index.Kernel).Blob, []byte("BZimage"))
		}, refusal.Digest},
		{"a swapped kernel that the index names", func(f *forge) {
			f.artefact(1, index.Kernel).Blob = f.add([]byte("BZimage"))
		}, refusal.Manifest},
		{"a swapped kernel that index and measurements name", func(f *forge) {
			b := f.add([]byte("BZimage"))
			f.artefact(1, index.Kernel).Blob, f.x.Guests[1].Measurements.Kernel = b, b.Digest
		}, refusal.Manifest},
		{"other measurements", func(f *forge) { f.x.Guests[1].Measurements.CommandLine = digest.Of(nil) },
			refusal.Manifest},
		{"a truncated file", func(f *forge) { f.rewrite(f.artefact(1, index.Initrd).Blob, []byte("init")) },
			refusal.Size},
		{"an extended file", func(f *forge) { f.rewrite(f.artefact(1, index.Initrd).Blob, []byte("initrd and more")) },
			refusal.Size},
		{"a truncated document", func(f *forge) { f.rewrite(f.x.Guests[1].Report, []byte("{")) }, refusal.Size},
		{"another architecture in the index", func(f *forge) { f.x.Guests[0].Arch = "s390x" }, refusal.Architecture},
		{"another guest's manifest", func(f *forge) { f.x.Guests[1].Manifest = f.x.Guests[0].Manifest },
			refusal.Architecture},
		{"another build's manifest", func(f *forge) { f.x.Guests[1].Manifest = f.other.Guests[1].Manifest },
			refusal.Manifest},
		{"another name in the index", func(f *forge) { f.x.Guests[1].Name = "simple" }, refusal.Manifest},
		{"a manifest that is none", func(f *forge) { f.x.Guests[1].Manifest = f.add([]byte("{}\n")) },
			refusal.Document},
		{"another build's SBOM", func(f *forge) {
			for _, a := range f.other.Guests[0].Artefacts {
				if a.Kind == index.SBOM {
					f.artefact(0, index.SBOM).Blob = a.Blob
				}
			}
		}, refusal.SBOM},
		{"another build's provenance", func(f *forge) { f.x.Guests[1].Provenance = f.other.Guests[1].Provenance },
			refusal.Provenance},
		{"another guest's provenance", func(f *forge) { f.x.Guests[1].Provenance = f.x.Guests[0].Provenance },
			refusal.Provenance},
		{"another build's report and verdict", func(f *forge) {
			f.x.Guests[1].Report, f.x.Guests[1].Verdict = f.other.Guests[1].Report, f.other.Guests[1].Verdict
		}, refusal.Report},
		{"another build's verdict", func(f *forge) { f.x.Guests[1].Verdict = f.other.Guests[1].Verdict },
			refusal.Report},
		{"another build's report", func(f *forge) { f.x.Guests[1].Report = f.other.Guests[1].Report },
			refusal.Report},
		{"another build's report with a verdict made to fit", func(f *forge) {
			g := &f.x.Guests[1]
			g.Report = f.other.Guests[1].Report
			f.verdict(g, func(v *verdict.Verdict) { v.Report = g.Report.Digest })
		}, refusal.Report},
		{"another guest's lock", func(f *forge) {
			b := f.add([]byte("another lock"))
			f.x.Guests[1].Lock = &b
		}, refusal.Recipe},
		{"another guest's recipe", func(f *forge) {
			packed, err := recipetar.Pack(t.Context(), []byte("another recipe"), ".", nil)
			if err != nil {
				t.Fatal(err)
			}
			b := f.add(packed)
			f.x.Guests[1].Recipe = &b
		}, refusal.Recipe},
		{"a recipe that is none", func(f *forge) {
			b := f.add([]byte("no tar"))
			f.x.Guests[1].Recipe = &b
		}, refusal.Document},
		{"a verdict that failed", func(f *forge) {
			f.verdict(&f.x.Guests[1], func(v *verdict.Verdict) { v.Claims[0].Met = false })
		}, refusal.NotAttested},
		{"a verdict about files alone", func(f *forge) {
			f.verdict(&f.x.Guests[1], func(v *verdict.Verdict) { v.Report = "" })
		}, refusal.Report},
		{"a verdict without a file", func(f *forge) {
			f.verdict(&f.x.Guests[1], func(v *verdict.Verdict) { v.Claims = v.Claims[1:] })
		}, refusal.Report},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newForge(t)
			c.spoil(f)
			from, err := folder.Open(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			err = judge.Contents(t.Context(), f.x, from, releasetest.Claims)
			if reason(err) != c.want || (err == nil) != (c.want == "") {
				t.Errorf("got %v, want the refusal %q", err, c.want)
			}
		})
	}
}

// verdict gives a guest another verdict.
func (f *forge) verdict(g *index.Guest, change func(*verdict.Verdict)) {
	f.t.Helper()
	v, err := verdict.Decode(f.read(g.Verdict))
	if err != nil {
		f.t.Fatal(err)
	}
	change(v)
	v.Judge(v.Report != "")
	data, err := v.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	g.Verdict = f.add(data)
}

func TestASmallFileIsReadWholeOrNotAtAll(t *testing.T) {
	dir, data := releasetest.Release(t, "1.4.0", releasetest.Guest{})
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	from, err := folder.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if text, err := judge.Read(t.Context(), from, "report", x.Guests[0].Report); err != nil || len(text) == 0 {
		t.Error(err)
	}
	huge := index.Blob{Digest: digest.Of(nil), Size: 1 << 40}
	if _, err := judge.Read(t.Context(), from, "report", huge); reason(err) != refusal.Size {
		t.Errorf("got %v", err)
	}
	if err := judge.Copy(t.Context(), from, "x", huge, io.Discard); err == nil {
		t.Error("a file that is not there is copied")
	}
}
