package assemble_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/assemble"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
	"github.com/katabuild/katabuild/releases/releasetest"
)

// release makes one of the guest in dir.
func release(t *testing.T, to string, c assemble.Config) ([]byte, error) {
	t.Helper()
	f, err := folder.Create(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	c.Version, c.Channel, c.Origin, c.Claims = "1.4.0", "stable", releasetest.Origin, releasetest.Claims
	data, err := assemble.Release(t.Context(), c, f)
	return data, errors.Join(err, f.Close())
}

func TestAReleaseNamesEveryFileOfItsGuests(t *testing.T) {
	dir, data := releasetest.Release(t, "1.4.0", releasetest.Two()...)
	x, err := index.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, g := range x.Guests {
		for _, a := range g.Artefacts {
			kinds = append(kinds, a.Kind)
		}
	}
	// Sorted by guest, then by name, as bytes.
	want := "system-map kernel config image sbom vmlinux system-map kernel config initrd vmlinux"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, b := range x.Blobs() {
		if d, n, err := digest.File(filepath.Join(dir, folder.BlobName(b.Digest))); d != b.Digest || n != b.Size ||
			err != nil {
			t.Errorf("%s: %s of %d bytes, %v", b.Digest, d, n, err)
		}
	}
	if m := x.Guests[1].Measurements; m.CommandLine != digest.Of([]byte("console=ttyS0 quiet")) ||
		m.Initrd != digest.Of([]byte("initrd")) || m.Kernel != digest.Of([]byte("bzImage")) {
		t.Errorf("measurements: %+v", m)
	}
}

func TestAReleaseIsTheSameBytesEachTime(t *testing.T) {
	_, first := releasetest.Release(t, "1.4.0", releasetest.Two()...)
	two := releasetest.Two()
	_, second := releasetest.Release(t, "1.4.0", two[1], two[0])
	if !bytes.Equal(first, second) {
		t.Errorf("%s\n%s", first, second)
	}
}

func TestOnlyAGuestThatHasBootedIsReleased(t *testing.T) {
	g := releasetest.Guest{}
	rewrite := func(dir string, change func(*verdict.Verdict)) error {
		file := filepath.Join(dir, assemble.VerdictName)
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		v, err := verdict.Decode(data)
		if err != nil {
			return err
		}
		change(v)
		v.Judge(v.Report != "")
		if data, err = v.Encode(); err != nil {
			return err
		}
		return os.WriteFile(file, data, 0o644)
	}
	for _, c := range []struct {
		name  string
		want  refusal.Reason
		spoil func(dir string) error
	}{
		{"not booted", refusal.NotAttested, func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, assemble.ReportName)),
				os.Remove(filepath.Join(d, assemble.VerdictName)))
		}},
		{"without a verdict", refusal.NotAttested, func(d string) error {
			return os.Remove(filepath.Join(d, assemble.VerdictName))
		}},
		{"built anew since", refusal.NotAttested, func(d string) error {
			m := releasetest.Guest{}.Manifest()
			m.Time++
			data, err := m.Encode()
			return errors.Join(err, manifest.Write(d, data))
		}},
		{"failed", refusal.NotAttested, func(d string) error {
			return rewrite(d, func(v *verdict.Verdict) {
				v.Claims = append(v.Claims, verdict.Claim{Name: "nonce", Want: "a", Got: "b"})
			})
		}},
		{"only its files were checked", refusal.Report, func(d string) error {
			return rewrite(d, func(v *verdict.Verdict) { v.Report = "" })
		}},
		{"a file was not checked", refusal.Report, func(d string) error {
			return rewrite(d, func(v *verdict.Verdict) { v.Claims = v.Claims[1:] })
		}},
		{"another guest's report", refusal.Report, func(d string) error {
			r := releasetest.Guest{Arch: "aarch64"}.Report()
			data, err := r.Encode()
			return errors.Join(err, os.WriteFile(filepath.Join(d, assemble.ReportName), data, 0o644),
				rewrite(d, func(v *verdict.Verdict) { v.Report = digest.Of(data) }))
		}},
		{"a report that is none", refusal.Document, func(d string) error {
			return os.WriteFile(filepath.Join(d, assemble.ReportName), []byte("{}"), 0o644)
		}},
		{"swapped kernel", refusal.Digest, func(d string) error {
			return os.WriteFile(filepath.Join(d, "bzImage"), []byte("BZimage"), 0o644)
		}},
		{"truncated kernel", refusal.Size, func(d string) error {
			return os.WriteFile(filepath.Join(d, "bzImage"), []byte("bzImag"), 0o644)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, to := t.TempDir(), t.TempDir()
			if err := errors.Join(g.Write(dir), c.spoil(dir)); err != nil {
				t.Fatal(err)
			}
			_, err := release(t, to, assemble.Config{Guests: []assemble.Guest{{Dir: dir}}})
			if r, ok := errors.AsType[*refusal.Error](err); !ok || r.Reason != c.want {
				t.Errorf("got %v, want the refusal %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(to, folder.IndexName)); err == nil {
				t.Error("there is a release")
			}
		})
	}
}

func TestTwoGuestsOfOneNameNeedVariants(t *testing.T) {
	dir := t.TempDir()
	if err := (releasetest.Guest{}).Write(dir); err != nil {
		t.Fatal(err)
	}
	twice := []assemble.Guest{{Dir: dir}, {Dir: dir}}
	_, err := release(t, t.TempDir(), assemble.Config{Guests: twice})
	if r, ok := errors.AsType[*refusal.Error](err); !ok || r.Reason != refusal.Twice {
		t.Errorf("got %v", err)
	}
	twice[1].Variant = "again"
	if _, err := release(t, t.TempDir(), assemble.Config{Guests: twice}); err != nil {
		t.Error(err)
	}
}

func TestNotesBecomeOne(t *testing.T) {
	dir, notes, to := t.TempDir(), t.TempDir(), t.TempDir()
	if err := (releasetest.Guest{}).Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"b.md": "# B\n\ntext\n\n", "a.md": "# A", "c.txt": "no note"} {
		if err := os.WriteFile(filepath.Join(notes, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := assemble.Config{Guests: []assemble.Guest{{Dir: dir}}, Notes: notes}
	data, err := release(t, to, cfg)
	if err != nil {
		t.Fatal(err)
	}
	x, err := index.Decode(data)
	if err != nil || x.Notes == nil {
		t.Fatal(err, x)
	}
	got, err := os.ReadFile(filepath.Join(to, folder.BlobName(x.Notes.Digest)))
	if want := "# A\n\n# B\n\ntext\n"; err != nil || string(got) != want {
		t.Errorf("got %q, want %q, %v", got, want, err)
	}
	if err := os.WriteFile(filepath.Join(notes, "d.md"), []byte("no title"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := release(t, t.TempDir(), cfg); err == nil || !strings.Contains(err.Error(), "title") {
		t.Errorf("got %v", err)
	}
}
