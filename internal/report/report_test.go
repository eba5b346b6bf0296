package report_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/report"
)

func encode(t testing.TB, r *report.Report) []byte {
	t.Helper()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTheReportKeepsItsForm(t *testing.T) {
	data := encode(t, documenttest.Report())
	golden.Check(t, "report.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := report.Decode(b); return err })
}

func TestExtensionsAreReadAsStrictly(t *testing.T) {
	r := documenttest.Report()
	r.Extensions = []report.Extension{{Name: "gpu", RootHash: "ab", MountPoint: "/run/kata-extensions/gpu"}}
	documenttest.Strict(t, encode(t, r), func(b []byte) error { _, err := report.Decode(b); return err })
}

func TestProbesAreReadAsStrictly(t *testing.T) {
	r := documenttest.Report()
	r.Probes = []report.Probe{{Name: "bpf", Met: true}, {Name: "overlay", Detail: "mount overlay: no such device"}}
	data := encode(t, r)
	golden.Check(t, "probes.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := report.Decode(b); return err })
}

func TestReportsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*report.Report){
		"nonce \"ab\"":   func(r *report.Report) { r.Nonce = "ab" },
		"nonce \"xyz\"":  func(r *report.Report) { r.Nonce = "xyz" },
		"did not finish": func(r *report.Report) { r.End = "" },
		"comes before":   func(r *report.Report) { r.Timeline[0].AtNS = 1e12 },
		"extension \"b\": root hash": func(r *report.Report) {
			r.Extensions = []report.Extension{{Name: "b",
				RootHash: "x"}}
		},
		"extension \"a\" is not in order": func(r *report.Report) {
			r.Extensions = []report.Extension{{Name: "b", RootHash: "00"}, {Name: "a", RootHash: "00"}}
		},
		"probe \"\": want": func(r *report.Report) { r.Probes = []report.Probe{{Met: true}} },
		"probe \"b\": want a name, and a detail": func(r *report.Report) {
			r.Probes = []report.Probe{{Name: "b", Met: true, Detail: "x"}}
		},
		"probe \"c\": want a name, and a detail": func(r *report.Report) { r.Probes = []report.Probe{{Name: "c"}} },
		"probe \"d\": want a name, and a detail": func(r *report.Report) {
			r.Probes = []report.Probe{{Name: "d", Detail: strings.Repeat("x", report.MaxDetail+1)}}
		},
		"probe \"a\" is not in order": func(r *report.Report) {
			r.Probes = []report.Probe{{Name: "a", Met: true}, {Name: "a", Met: true}}
		},
		"may be empty, not null": func(r *report.Report) { r.Modules = nil },
	} {
		r := documenttest.Report()
		spoil(r)
		if _, err := r.Encode(); err == nil || !strings.Contains(err.Error(), strings.Replace(name, ", not null",
			" but not null", 1)) {
			t.Errorf("got %v, want %s", err, name)
		}
	}
	if _, err := report.Decode(make([]byte, report.MaxSize+1)); err == nil || !strings.Contains(err.Error(),
		"more than") {
		t.Errorf("an endless report: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, documenttest.Report()))
	tried := documenttest.Report()
	tried.Probes = []report.Probe{{Name: "bpf", Met: true}, {Name: "overlay", Detail: "none"}}
	f.Add(encode(f, tried))
	f.Add([]byte(`{"version": 1, "timeline": [{"name": "a", "at_ns": 9223372036854775808}]}`)) // a time past 64 bits
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := report.Decode(data)
		if err == nil && !bytes.Equal(encode(t, r), data) {
			t.Error("accepted bytes that are not written again")
		}
	})
}
