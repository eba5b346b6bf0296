package bugreport

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func says(text string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// unpacked are an archive's files.
func unpacked(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(text)
	}
}

func TestAPartThatFailsLeavesTheOthers(t *testing.T) {
	var b bytes.Buffer
	var told []string
	s, err := Write(t.Context(), &b, "host", time.Unix(1e9, 0), []Part{
		{"one.txt", "the first", says("PASSWORD=hunter2\n")},
		{"two.json", "the second", says(`{"token": "hunter2"}`)},
		{"half.txt", "half of one", func(ctx context.Context, w io.Writer) error {
			return errors.Join(says("begun\n")(ctx, w), errors.New("broken off, token=hunter2"))
		}},
		{"none.txt", "nothing", func(context.Context, io.Writer) error { return errors.New("not there") }},
		{"big.txt", "a log without an end", says(strings.Repeat("x", 3*maxPart) + "the end")},
	}, func(name string) { told = append(told, name) })
	if err != nil {
		t.Fatal(err)
	}
	files := unpacked(t, b.Bytes())
	want := []string{"host/README", "host/big.txt", "host/errors.txt", "host/half.txt", "host/one.txt", "host/two.json"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	for name, text := range files {
		if strings.Contains(text, planted) {
			t.Errorf("%s: %s", name, text)
		}
	}
	if got := files["host/big.txt"]; len(got) != maxPart || !strings.HasSuffix(got, "the end") {
		t.Errorf("%d bytes", len(got))
	}
	if s.Parts != 4 || len(s.Lacked) != 3 || len(told) != 5 || s.Taken != "2 secrets" {
		t.Errorf("%+v, %q", s, told)
	}
	for _, w := range []string{"half.txt: broken off", "none.txt: not there", "big.txt: the first "} {
		if !strings.Contains(files["host/errors.txt"], w) {
			t.Errorf("errors.txt lacks %q: %s", w, files["host/errors.txt"])
		}
	}
	if !strings.Contains(files["host/README"], "one.txt                                  the first\n") ||
		!strings.Contains(files["host/README"], "Taken out: 2 secrets") {
		t.Error(files["host/README"])
	}
}

func TestAFullDiskIsAnError(t *testing.T) {
	_, err := Write(t.Context(), full{}, "host", time.Now(), []Part{{"a.txt", "", says("a")}}, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "no space") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	if _, err := Write(ctx, io.Discard, "host", time.Now(), []Part{{"a.txt", "", says("a")}},
		func(string) {}); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Error(err)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }
