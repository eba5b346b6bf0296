package spans

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/golden"
)

// sample is two services, and a span with all that one can have.
func sample() []Batch {
	trace := TraceID{0x0a, 15: 1}
	return []Batch{
		{Service: "containerd-shim-kata-v2", Attributes: []Attribute{{"katabuild.pod", "p"}}, Spans: []Span{
			{Context: Context{trace, SpanID{7: 1}}, Name: "start", Kind: Internal, Start: 1700000000e9,
				End: 1700000001e9},
			{Context: Context{trace, SpanID{7: 2}}, Parent: SpanID{7: 1}, Name: "agent/CreateContainer", Kind: Client,
				Start: 1700000000e9 + 5, End: 1700000000e9 + 6, Error: "no such file",
				Attributes: []Attribute{{"container", "c"}, {"empty", ""}}},
		}},
		{Service: AgentService, Spans: []Span{{Context: Context{trace, SpanID{7: 3}}, Parent: SpanID{7: 2},
			Name: "CreateContainer", Kind: Server, Start: 1700000000e9 + 5, End: 1700000000e9 + 5}}},
	}
}

func encoded(t testing.TB) []byte {
	b, err := Encode(sample()...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSpansAreOTLP(t *testing.T) {
	b := encoded(t)
	golden.Check(t, "trace.hex", []byte(hex.Dump(b)))
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, sample()) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, sample())
	}
	// OpenTelemetry's own code reads the same, and knows every field.
	var r tracepb.TracesData // the same fields as ExportTraceServiceRequest
	if err := proto.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if again, err := (proto.MarshalOptions{Deterministic: true}).Marshal(&r); err != nil || !bytes.Equal(again, b) {
		t.Errorf("OpenTelemetry writes it otherwise: %v\n%x\n%x", err, again, b)
	}
	text := prototext.Format(&r)
	for _, want := range []string{"service.name", "katabuild.pod", "SPAN_KIND_CLIENT", "STATUS_CODE_ERROR",
		"no such file", "agent/CreateContainer", "1700000000000000005"} {
		if !strings.Contains(text, want) {
			t.Errorf("OpenTelemetry sees no %s in\n%s", want, text)
		}
	}
}

func TestOnlyTheWritersBytesAreRead(t *testing.T) {
	b, err := Encode(sample()[0])
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(b); n++ { // nothing is a list of no services
		if _, err := Decode(b[:n]); !errors.Is(err, errForm) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
	with := func(change func(*Span)) []byte {
		s := sample()
		change(&s[0].Spans[1])
		return encode(s)
	}
	long := strings.Repeat("x", maxText+1)
	many := make([]Span, maxSpans+1)
	for i := range many {
		many[i] = sample()[0].Spans[0]
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"too many bytes":     {make([]byte, maxBytes+1), errLarge},
		"a field of another": {append([]byte{0x12, 0}, b...), errForm},
		"fields in disorder": {append([]byte{0x0a, 0x04, 0x12, 0x00, 0x0a, 0x00}, b...), errForm},
		"noise":              {[]byte("{\"spans\":[]}"), errForm},
		"no name of it":      {encode([]Batch{{}})[:4], errForm},
		"a control sequence": {with(func(s *Span) { s.Name = "\x1b[2J" }), errText},
		"text backwards":     {with(func(s *Span) { s.Error = "a\u202eb" }), errText},
		"no UTF-8":           {with(func(s *Span) { s.Attributes[0].Key = "\xff" }), errText},
		"a long name":        {with(func(s *Span) { s.Attributes[0].Value = long }), errText},
		"no trace":           {with(func(s *Span) { s.Trace = TraceID{} }), errValues},
		"no span":            {with(func(s *Span) { s.Span = SpanID{} }), errValues},
		"an end before":      {with(func(s *Span) { s.End = 1 }), errValues},
		"a time before 1970": {with(func(s *Span) { s.Start = -1 }), errValues},
		"no kind":            {with(func(s *Span) { s.Kind = 0 }), errValues},
		"many attributes": {with(func(s *Span) { s.Attributes = make([]Attribute, maxAttributes+1) }),
			errMany},
		"many spans":    {encode([]Batch{{Service: "x", Spans: many}}), errMany},
		"many services": {encode(make([]Batch, maxBatches+1)), errMany},
	} {
		if _, err := Decode(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := Encode(Batch{Service: long}); !errors.Is(err, errText) {
		t.Error(err)
	}
}

func TestTextsAreMadeSuch(t *testing.T) {
	for in, want := range map[string]string{"a\nb\x1b": "a b ", "\xff": "?", "ü": "ü",
		strings.Repeat("ü", maxText): strings.Repeat("ü", maxText/2)} {
		if got := Clean(in); got != want || checkText(got) != nil {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestTraceparents(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	good := "00-" + trace + "-" + span + "-01"
	c, ok := ParseTraceparent(good)
	if !ok || c.Trace.String() != trace || c.Span.String() != span || c.Traceparent() != good {
		t.Errorf("%+v, %v", c, ok)
	}
	if _, ok := ParseTraceparent("cc-" + trace + "-" + span + "-09-what-comes"); !ok {
		t.Error("a later version is refused")
	}
	for _, bad := range []string{"", good + "-x", good[1:], strings.ToUpper(good), "ff" + good[2:],
		strings.Replace(good, trace, strings.Repeat("0", 32), 1),
		strings.Replace(good, span, strings.Repeat("0", 16), 1),
		strings.Replace(good, "-01", "-00", 1), strings.Replace(good, "0a", "xa", 1), "cc" + good[2:] + "x",
		strings.Replace(good, "-b", "_b", 1)} {
		if c, ok := ParseTraceparent(bad); ok || c != (Context{}) {
			t.Errorf("%q: %+v", bad, c)
		}
	}
}

func TestFramesAreBounded(t *testing.T) {
	b := AppendFrame(AppendFrame(nil, []byte("one")), nil)
	r := bytes.NewReader(b)
	for _, want := range []string{"one", ""} {
		if got, err := ReadFrame(r); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := ReadFrame(r); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	huge := binary.BigEndian.AppendUint64(nil, MaxFrame+1)
	if _, err := ReadFrame(bytes.NewReader(huge)); !errors.Is(err, errLarge) {
		t.Error(err)
	}
	if _, err := ReadFrame(bytes.NewReader(b[:9])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encoded(f))
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x00})                   // a service without anything
	f.Add([]byte{0x0a, 0x04, 0x12, 0x02, 0x12}) // a span that is cut off
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Encode(got...)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%v: %x is written as %x", err, data, again)
		}
	})
}

func FuzzTraceparent(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x")
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := ParseTraceparent(s)
		if again, same := ParseTraceparent(c.Traceparent()); ok && (!same || again != c) {
			t.Errorf("%q: %+v, then %+v", s, c, again)
		}
	})
}
