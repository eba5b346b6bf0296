package accepted_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/releases/accepted"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

// release has guests "name version" for x86_64.
func release(channel string, guests ...string) *index.Index {
	x := &index.Index{Channel: channel}
	for _, g := range guests {
		name, version, _ := strings.Cut(g, " ")
		x.Guests = append(x.Guests, index.Guest{Name: name, Version: version, Arch: "x86_64"})
	}
	return x
}

func TestAnOlderReleaseDoesNotComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "accepted.json")
	for _, c := range []struct {
		x    *index.Index
		want bool // it is accepted
	}{
		{release("stable", "tiny 1.4.0", "big 1.0.0"), true},
		{release("stable", "tiny 1.4.0"), true}, // the same once more
		{release("stable", "tiny 1.5.0"), true},
		{release("stable", "tiny 1.4.9"), false},
		{release("stable", "tiny 1.5.0-rc.1"), false},
		{release("stable", "tiny 1.4.0", "tiny 1.5.0"), true}, // an older one beside the newest is no way back
		{release("stable", "big 1.1.0", "tiny 1.4.0"), false},
		{release("stable", "big 1.0.1"), true}, // the refused one was not remembered
		{release("testing", "tiny 1.0.0"), true},
	} {
		err := accepted.Accept(t.Context(), path, c.x)
		r, _ := errors.AsType[*refusal.Error](err)
		if (err == nil) != c.want || r != nil && r.Reason != refusal.Rollback {
			t.Errorf("%s %s %s: %v", c.x.Channel, c.x.Guests[0].Name, c.x.Guests[0].Version, err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "accepted.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := accepted.Decode(b); return err })
}

func TestManyAtOnceForgetNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accepted.json")
	var wait sync.WaitGroup
	for i := range 10 {
		wait.Go(func() {
			if err := accepted.Accept(t.Context(), path, release("stable", fmt.Sprintf("g%d 1.0.0", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	m, err := accepted.Read(path)
	if err != nil || len(m.Guests) != 10 {
		t.Errorf("%d guests, %v", len(m.Guests), err)
	}
}

func TestAMemoryThatOthersCouldHaveWrittenIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "accepted.json")
	if err := accepted.Accept(t.Context(), path, release("stable", "tiny 1.0.0")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Read(path); !errors.As(err, new(*owned.Unsafe)) {
		t.Errorf("got %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("{\n  \"version\": 1,\n  \"guests\": []\n}\n"))
	f.Add([]byte(`{"version": 1, "guests": null}`)) // a list that is null
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := accepted.Decode(data)
		if err != nil {
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("accepted bytes that are not written again: %v", err)
		}
	})
}
