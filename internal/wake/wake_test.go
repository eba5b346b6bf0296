package wake

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
)

func sample(t testing.TB) *Request {
	t.Helper()
	r, err := New(strings.NewReader(strings.Repeat("randomness ", 10)), time.Unix(1700000000, 5), "pod-1")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheRequestKeepsItsForm(t *testing.T) {
	b, err := sample(t).encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "wake.json", b)
	documenttest.Strict(t, b, func(b []byte) error { _, err := decode(b); return err })
}

func TestARequestIsTakenAsItWasSent(t *testing.T) {
	var wire bytes.Buffer
	r := sample(t)
	if err := r.Send(&wire); err != nil {
		t.Fatal(err)
	}
	got, err := Receive(&wire)
	if err != nil || *got != *r || len(got.Random()) != seedSize {
		t.Errorf("%+v, %v", got, err)
	}
	if err := errors.Join(Answer(&wire, nil), Await(&wire)); err != nil {
		t.Error(err)
	}
	if err := Answer(&wire, errors.New("no clock")); err != nil {
		t.Error(err)
	}
	if err := Await(&wire); err == nil || !strings.Contains(err.Error(), "no clock") {
		t.Errorf("a refusal: %v", err)
	}
}

func TestRequestsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Request){
		"a short seed":        func(r *Request) { r.Seed = "00ff" },
		"a seed of zeros":     func(r *Request) { r.Seed = strings.Repeat("0", 2*seedSize) },
		"no time":             func(r *Request) { r.TimeNS = 0 },
		"a name with a slash": func(r *Request) { r.Hostname = "../x" },
		"no machine id":       func(r *Request) { r.MachineID = "" },
		"an id of zeros":      func(r *Request) { r.MachineID = strings.Repeat("0", machineID) },
	} {
		r := sample(t)
		spoil(r)
		if _, err := r.encode(); err == nil {
			t.Errorf("%s is written", name)
		}
	}
	if _, err := New(strings.NewReader("short"), time.Now(), ""); err == nil {
		t.Error("a request without randomness")
	}
}

func TestWhatIsTooLongOrCutOffIsRefused(t *testing.T) {
	for name, wire := range map[string]string{
		"nothing": "", "a length alone": "\x00\x00\x00\x02", "no length": "\x00\x00\x00\x00",
		"too much": "\x00\x01\x00\x00", "half": "\x00\x00\x00\x04ab", "something else": "\x00\x00\x00\x02{}",
	} {
		if _, err := Receive(strings.NewReader(wire)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzReceive(f *testing.F) {
	var wire bytes.Buffer
	if err := sample(f).Send(&wire); err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Bytes())
	f.Add([]byte("\x00\x00\x00\x02{}"))     // a document without fields
	f.Add([]byte("\xff\xff\xff\xff"))       // the largest length
	f.Add([]byte("\x00\x00\x10\x01" + "{")) // one more than the bound
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Receive(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := r.Send(&again); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%v: %q became %q", err, b, again.Bytes())
		}
	})
}
