package picture

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/trace"
)

const ms = 1e6

// span is one of the sample's trace: id and parent are numbers, times are milliseconds.
func span(id, parent byte, name string, from, to int64) spans.Span {
	return spans.Span{Context: spans.Context{Trace: spans.TraceID{15: 1}, Span: spans.SpanID{7: id}},
		Parent: spans.SpanID{7: parent}, Name: name, Kind: spans.Internal, Start: 1700000000e9 + from*ms,
		End: 1700000000e9 + to*ms}
}

func sample() []spans.Batch {
	failed := span(4, 2, "hypervisor/plug <disk>", 500, 510)
	failed.Error = `no "place"`
	told := span(5, 3, "guest until init", 120, 300)
	told.Attributes = []spans.Attribute{{Key: trace.GuestKey, Value: "boot timeline"}}
	lying := span(7, 6, "a guest may say what it likes", -5000, 900000)
	other := span(9, 0, "shim/Kill", 900, 950)
	other.Trace = spans.TraceID{15: 2}
	return []spans.Batch{
		{Service: "containerd-shim-kata-v2", Attributes: []spans.Attribute{{Key: trace.PodKey, Value: "p"}},
			Spans: []spans.Span{failed, told, span(3, 2, "boot", 100, 500), span(2, 1, "shim/Create", 0, 700),
				span(6, 1, "agent/StartContainer", 700, 800), span(1, 8, trace.Name, 0, 800), other}},
		{Service: spans.AgentService, Spans: []spans.Span{lying}},
	}
}

func TestAPictureIsDrawn(t *testing.T) {
	p, err := New(sample(), trace.Name)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "start.txt", []byte(p.Text()))
	svg := p.SVG()
	golden.Check(t, "start.svg", []byte(svg))
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	j, err := JSON(sample())
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "start.json", j)
}

func TestThereIsATrace(t *testing.T) {
	b := sample()
	b[0], b[1] = b[1], spans.Batch{}
	b[0].Spans[0].Name = trace.Name // a guest begins no trace of the host's
	if _, err := New(b, trace.Name); !errors.Is(err, errNoStart) {
		t.Error(err)
	}
}

func TestAPictureIsBounded(t *testing.T) {
	b := sample()
	for i := range maxRows {
		s := span(0, 1, "flood", 1, 2)
		s.Span = spans.SpanID{1, byte(i >> 8), byte(i)}
		b[1].Spans = append(b[1].Spans, s)
	}
	loop := span(200, 201, "loop", 0, 1)
	back := span(201, 200, "loop", 0, 1)
	b[1].Spans = append(b[1].Spans, loop, back, span(202, 202, "of itself", 0, 1))
	p, err := New(b, trace.Name)
	if err != nil || len(p.Rows) != maxRows || p.Left == 0 {
		t.Fatal(err, len(p.Rows), p.Left)
	}
	if !strings.Contains(p.Text(), "more are left out") || !strings.Contains(p.SVG(), "more are left out") {
		t.Error("what is left out is not said")
	}
	if p, err := New([]spans.Batch{{Spans: []spans.Span{span(1, 0, "x", 0, 0)}}}, "x"); err != nil ||
		!strings.Contains(p.SVG(), "</svg>") || !strings.Contains(p.Text(), "x") {
		t.Error("a start that took no time cannot be drawn", err)
	}
}

// OpenTelemetry's own code reads the JSON. Its ids are in base64 there, as protojson has bytes, and in hexadecimal in
// OTLP: both are texts.
func TestTheJSONIsOTLPs(t *testing.T) {
	j, err := JSON(sample())
	if err != nil {
		t.Fatal(err)
	}
	var d tracepb.TracesData
	if err := protojson.Unmarshal(j, &d); err != nil || len(d.ResourceSpans) != 2 ||
		len(d.ResourceSpans[0].ScopeSpans[0].Spans) != 7 || d.ResourceSpans[0].ScopeSpans[0].Spans[0].Status.Message !=
		`no "place"` {
		t.Error(err, d.ResourceSpans)
	}
}

// Names of spans are a guest's words: in a picture they are text, whatever they hold.
func TestNamesAreText(t *testing.T) {
	b := sample()
	const evil = `</text><script>alert(1)</script>" onload="x`
	b[1].Spans[0].Name = evil
	b[1].Spans[0].Attributes = []spans.Attribute{{Key: evil, Value: "\x1b[2J\x00" + evil}}
	p, err := New(b, trace.Name)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for d := xml.NewDecoder(strings.NewReader(p.SVG())); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			if e.Name.Local == "script" {
				t.Error("the picture has a script")
			}
			for _, a := range e.Attr {
				if a.Name.Local == "onload" {
					t.Error("the picture has a handler")
				}
			}
		case xml.CharData:
			text.Write(e)
		}
	}
	if !strings.Contains(text.String(), "<script>") {
		t.Error("the name is not shown")
	}
	if strings.ContainsAny(p.Text(), "\x1b\x00") || strings.ContainsAny(p.SVG(), "\x1b\x00") {
		t.Error("a terminal would act on it")
	}
}
