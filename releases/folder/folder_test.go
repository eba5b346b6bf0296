package folder_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/refusal"
)

func create(t *testing.T) *folder.Folder {
	t.Helper()
	f, err := folder.Create(t.Context(), filepath.Join(t.TempDir(), "new", "release"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// from opens data at an offset, which it notes.
func from(data []byte, at *int64) folder.Opener {
	return func(offset int64) (io.ReadCloser, error) {
		*at = offset
		return io.NopCloser(bytes.NewReader(data[offset:])), nil
	}
}

func blob(data []byte) index.Blob { return index.Blob{Digest: digest.Of(data), Size: int64(len(data))} }

func TestAFileEntersWholeOrNotAtAll(t *testing.T) {
	good := []byte("the bytes that were promised")
	for _, c := range []struct {
		name string
		sent []byte
		want refusal.Reason
	}{
		{"as promised", good, ""},
		{"cut off", good[:10], refusal.Size},
		{"too long", append(bytes.Clone(good), '!'), refusal.Size},
		{"other bytes", bytes.ToUpper(good), refusal.Digest},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := create(t)
			var at int64
			err := f.Put(t.Context(), blob(good), from(c.sent, &at))
			r, _ := errors.AsType[*refusal.Error](err)
			if (err == nil) != (c.want == "") || r != nil && r.Reason != c.want {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if has, err := f.Has(t.Context(), blob(good)); err != nil || has != (c.want == "") {
				t.Errorf("it is there: %v, %v", has, err)
			}
			left, err := filepath.Glob(filepath.Join(f.Dir(), "blobs/partial/*"))
			if err != nil || len(left) > 0 {
				t.Errorf("%q is left, %v", left, err)
			}
		})
	}
}

// broken gives some bytes and then fails.
type broken struct{ io.Reader }

var errBroken = errors.New("the line broke")

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

func TestAFileGoesOnWhereItWasCutOff(t *testing.T) {
	f := create(t)
	good := bytes.Repeat([]byte("0123456789"), 1000)
	err := f.Put(t.Context(), blob(good), func(int64) (io.ReadCloser, error) {
		return io.NopCloser(broken{bytes.NewReader(good[:4321])}), nil
	})
	if !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	var at int64
	if err := f.Put(t.Context(), blob(good), from(good, &at)); err != nil || at != 4321 {
		t.Fatalf("went on at %d: %v", at, err)
	}
	r, err := f.Open(t.Context(), blob(good), 9990)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "0123456789" {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestAFolderCannotLeadElsewhere(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := create(t)
	b := blob([]byte("secret"))
	for _, name := range []string{folder.IndexName, folder.BlobName(b.Digest)} {
		if err := os.Symlink(outside, filepath.Join(f.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Index(t.Context()); err == nil {
		t.Error("an index that is a link out of the folder is read")
	}
	if r, err := f.Open(t.Context(), b, 0); err == nil {
		_ = r.Close()
		t.Error("a file that is a link out of the folder is read")
	}
	if has, err := f.Has(t.Context(), b); has || err != nil {
		t.Errorf("a link counts as a file: %v, %v", has, err)
	}
}

func TestOneProcessWritesAtATime(t *testing.T) {
	f := create(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := folder.Create(ctx, f.Dir()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second one: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := folder.Create(t.Context(), f.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}
