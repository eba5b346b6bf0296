// Package spans is what shim and agent say of where time went: OpenTelemetry's spans, in the bytes of OTLP.
//
// The bytes are those of OpenTelemetry's published schema (opentelemetry-proto 1.x,
// opentelemetry/proto/collector/trace/v1/trace_service.proto: ExportTraceServiceRequest), of which few fields are
// needed, so that neither OpenTelemetry's SDK nor gRPC is. What is read comes from guests, too: the reader takes the
// writer's bytes alone, up to bounds. docs/formats/trace.md owns the format.
package spans

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TraceID names a trace: all spans that one deed led to. Zero is none.
type TraceID [16]byte

// SpanID names a span. Zero is none.
type SpanID [8]byte

// String is the id in hexadecimal.
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }

// String is the id in hexadecimal.
func (s SpanID) String() string { return hex.EncodeToString(s[:]) }

// Context is which span something belongs to. The zero value is none.
type Context struct {
	Trace TraceID
	Span  SpanID
}

// Parent is the key of a Context in the metadata of a call, and HostTime that of the caller's time: nanoseconds since
// 1970, in decimal. The first is W3C's (Trace Context, level 1), the second ours: a guest's clock may be another one.
const (
	Parent   = "traceparent"
	HostTime = "katabuild-host-time"
)

// AgentService is the service.name of a guest's agent. No guest may have another one.
const AgentService = "kata-agent"

// Kind is what a span is of: OTLP's numbers.
type Kind int

// The kinds that occur.
const (
	Internal Kind = 1
	Server   Kind = 2 // a call, where it is answered
	Client   Kind = 3 // a call, where it is made
)

// Span is something that took time.
type Span struct {
	Context
	Parent     SpanID // zero for the first of a trace
	Name       string
	Kind       Kind
	Start, End int64 // nanoseconds since 1970
	Attributes []Attribute
	Error      string // why it failed; empty where it did not
}

// Attribute is a value with a name.
type Attribute struct{ Key, Value string }

// Batch is spans of one service.
type Batch struct {
	Service    string      // service.name
	Attributes []Attribute // of the service, without its name
	Spans      []Span
}

// Bounds of what is written and read.
const (
	maxBytes      = 4 << 20 // of all
	maxSpans      = 8192    // of all
	maxBatches    = 64
	maxAttributes = 32
	maxText       = 1024 // bytes
)

// Why bytes are refused.
var (
	errLarge  = errors.New("more bytes than spans may have")
	errMany   = errors.New("more spans, services or attributes than there may be")
	errForm   = errors.New("not the canonical bytes of OTLP's spans")
	errText   = errors.New("a text that is too long, or not of printable characters")
	errValues = errors.New("a span without ids, or one that ends before it begins")
)

// Traceparent is the value for Parent.
func (c Context) Traceparent() string {
	return "00-" + c.Trace.String() + "-" + c.Span.String() + "-01"
}

// lenParent is the length of version 00; later ones may have more behind it.
const lenParent = len("00-") + 32 + len("-") + 16 + len("-01")

// ParseTraceparent reads the value of Parent. A caller that does not sample its trace wants none.
func ParseTraceparent(s string) (c Context, sampled bool) {
	if len(s) < lenParent || len(s) > maxText || s[:2] == "ff" || s[:2] == "00" && len(s) != lenParent ||
		len(s) > lenParent && s[lenParent] != '-' || strings.ToLower(s) != s {
		return Context{}, false
	}
	version, err0 := hex.DecodeString(s[:2])
	trace, err1 := hex.DecodeString(s[3:35])
	span, err2 := hex.DecodeString(s[36:52])
	flags, err3 := hex.DecodeString(s[53:55])
	if errors.Join(err0, err1, err2, err3) != nil || len(version) != 1 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return Context{}, false
	}
	copy(c.Trace[:], trace)
	copy(c.Span[:], span)
	if c.Trace == (TraceID{}) || c.Span == (SpanID{}) || flags[0]&1 == 0 {
		return Context{}, false
	}
	return c, true
}

// Clean makes a text one that may be written: of one line, printable and not too long.
func Clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !printable(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= maxText {
		return s
	}
	cut := maxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// printable says whether a rune may stand in a text: neither a control character nor one that turns others around.
func printable(r rune) bool { return r == ' ' || unicode.IsGraphic(r) }

func checkText(s string) error {
	if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !printable(r) }) {
		return errText
	}
	return nil
}

// check says whether batches may be written.
func check(batches []Batch) error {
	total := 0
	if len(batches) > maxBatches {
		return errMany
	}
	for _, b := range batches {
		total += len(b.Spans)
		if total > maxSpans {
			return errMany
		}
		if err := checkAttributes(append(slices.Clip(b.Attributes), Attribute{"service.name", b.Service})); err != nil {
			return err
		}
		for _, s := range b.Spans {
			if s.Trace == (TraceID{}) || s.Span == (SpanID{}) || s.Start < 0 || s.End < s.Start || s.Kind < Internal ||
				s.Kind > Client {
				return fmt.Errorf("%w: span %s", errValues, s.Span)
			}
			if err := errors.Join(checkText(s.Name), checkText(s.Error), checkAttributes(s.Attributes)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkAttributes(list []Attribute) error {
	if len(list) > maxAttributes {
		return errMany
	}
	for _, a := range list {
		if err := errors.Join(checkText(a.Key), checkText(a.Value)); err != nil {
			return err
		}
	}
	return nil
}
