package fetch

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
)

// files is a mirror in memory.
type files map[digest.Digest]string

func (f files) Open(_ context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	text, ok := f[d]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
}

func of(name, kind string) lock.Input {
	in := lock.Input{Name: name, Kind: kind, Digest: digest.Of([]byte(name)), Size: int64(len(name)),
		Where: "http://127.0.0.1:1/nothing"}
	if kind == lock.Debian {
		in.Where, in.Package = "", &lock.Package{Suite: "trixie", Name: name, Version: "1", Arch: "amd64",
			Filename: "pool/main/x.deb"}
	}
	return in
}

func TestAMirrorIsAskedBeforeAllOthers(t *testing.T) {
	f := fetcher(t)
	f.Apt = nil // which would be asked
	a, b, c := of("bash", lock.Debian), of("source", lock.URL), of("dash", lock.Debian)
	f.Mirror = files{a.Digest: "bash", b.Digest: "source", c.Digest: "dash"}
	if err := f.Bring(t.Context(), b, nil); err != nil {
		t.Error(err)
	}
	if err := f.BringPackages(t.Context(), []lock.Input{a, c}, nil); err != nil {
		t.Error(err)
	}
	for _, in := range []lock.Input{a, b, c} {
		if !f.Store.Has(in.Digest) {
			t.Errorf("%s is not in the store", in.Name)
		}
	}
}

func TestAMirrorThatLiesIsRefused(t *testing.T) {
	f := fetcher(t)
	in := of("source", lock.URL)
	f.Mirror = files{in.Digest: "sauce"}
	err := f.Bring(t.Context(), in, nil)
	if _, wrong := errors.AsType[*digest.Mismatch](err); !wrong || f.Store.Has(in.Digest) {
		t.Errorf("got %v", err)
	}
}

func TestWhatAMirrorLacksComesFromElsewhere(t *testing.T) {
	f := fetcher(t)
	f.Mirror = files{}
	if err := f.Bring(t.Context(), of("source", lock.URL), nil); err == nil ||
		!strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}
