package spans

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of fields, in the order of the schema.
const (
	// opentelemetry/proto/collector/trace/v1/trace_service.proto: ExportTraceServiceRequest
	requestResourceSpans = 1
	// opentelemetry/proto/trace/v1/trace.proto
	resourceSpansResource   = 1
	resourceSpansScopeSpans = 2
	scopeSpansScope         = 1
	scopeSpansSpans         = 2
	spanTraceID             = 1
	spanSpanID              = 2
	spanParentSpanID        = 4
	spanName                = 5
	spanKind                = 6
	spanStart               = 7 // fixed64
	spanEnd                 = 8 // fixed64
	spanAttributes          = 9
	spanStatus              = 15
	statusMessage           = 2
	statusCode              = 3
	// opentelemetry/proto/resource/v1/resource.proto
	resourceAttributes = 1
	// opentelemetry/proto/common/v1/common.proto
	scopeName           = 1
	keyValueKey         = 1
	keyValueValue       = 2
	anyValueStringValue = 1
)

// StatusError is Status.STATUS_CODE_ERROR.
const StatusError = 2

// Scope names who makes the spans: the InstrumentationScope.
const Scope = "katabuild"

// Encode writes batches. An error says what of them cannot be written.
func Encode(batches ...Batch) ([]byte, error) {
	if err := check(batches); err != nil {
		return nil, err
	}
	out := encode(batches)
	if len(out) > maxBytes {
		return nil, errLarge
	}
	return out, nil
}

func encode(batches []Batch) []byte {
	var out []byte
	for _, b := range batches {
		resource := appendAttributes(nil, resourceAttributes, []Attribute{{"service.name", b.Service}})
		resource = appendAttributes(resource, resourceAttributes, b.Attributes)
		scoped := appendBytes(nil, scopeSpansScope, appendText(nil, scopeName, Scope))
		for _, s := range b.Spans {
			scoped = appendBytes(scoped, scopeSpansSpans, appendSpan(nil, s))
		}
		of := appendBytes(nil, resourceSpansResource, resource)
		out = appendBytes(out, requestResourceSpans, appendBytes(of, resourceSpansScopeSpans, scoped))
	}
	return out
}

func appendSpan(b []byte, s Span) []byte {
	b = appendBytes(b, spanTraceID, s.Trace[:])
	b = appendBytes(b, spanSpanID, s.Span[:])
	if s.Parent != (SpanID{}) {
		b = appendBytes(b, spanParentSpanID, s.Parent[:])
	}
	b = appendText(b, spanName, s.Name)
	b = protowire.AppendVarint(protowire.AppendTag(b, spanKind, protowire.VarintType), uint64(s.Kind))
	b = protowire.AppendFixed64(protowire.AppendTag(b, spanStart, protowire.Fixed64Type), uint64(s.Start))
	b = protowire.AppendFixed64(protowire.AppendTag(b, spanEnd, protowire.Fixed64Type), uint64(s.End))
	b = appendAttributes(b, spanAttributes, s.Attributes)
	if s.Error != "" {
		status := appendText(nil, statusMessage, s.Error)
		status = protowire.AppendVarint(protowire.AppendTag(status, statusCode, protowire.VarintType), StatusError)
		b = appendBytes(b, spanStatus, status)
	}
	return b
}

func appendAttributes(b []byte, field protowire.Number, list []Attribute) []byte {
	for _, a := range list {
		kv := appendText(nil, keyValueKey, a.Key)
		b = appendBytes(b, field, appendBytes(kv, keyValueValue, appendText(nil, anyValueStringValue, a.Value)))
	}
	return b
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// Decode reads what Encode has written, and nothing else: its error is one of errLarge, errMany, errForm, errText and
// errValues.
func Decode(data []byte) ([]Batch, error) {
	if len(data) > maxBytes {
		return nil, fmt.Errorf("spans of %d bytes: %w", len(data), errLarge)
	}
	d := decoder{}
	var out []Batch
	if err := d.fields(data, func(f protowire.Number, v value) error {
		if f != requestResourceSpans || len(out) > maxBatches {
			return errForm
		}
		b, err := d.batch(v.bytes)
		out = append(out, b)
		return err
	}); err != nil {
		return nil, fmt.Errorf("spans: %w", err)
	}
	if err := check(out); err != nil {
		return nil, fmt.Errorf("spans: %w", err)
	}
	if !bytes.Equal(encode(out), data) {
		return nil, fmt.Errorf("spans: %w", errForm)
	}
	return out, nil
}

// decoder counts what it makes, so that few bytes cannot become much.
type decoder struct{ made int }

// value is a field's: bytes, or a number.
type value struct {
	bytes  []byte
	number uint64
}

// maxMade bounds spans and attributes together.
const maxMade = 8 * maxSpans

// fields hands the fields of a message to each.
func (d *decoder) fields(data []byte, each func(protowire.Number, value) error) error {
	for len(data) > 0 {
		f, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errForm
		}
		data = data[n:]
		var v value
		switch kind {
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(data)
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(data)
		case protowire.Fixed64Type:
			v.number, n = protowire.ConsumeFixed64(data)
		default:
			return errForm
		}
		if n < 0 {
			return errForm
		}
		data = data[n:]
		if err := each(f, v); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) make() error {
	if d.made++; d.made > maxMade {
		return errMany
	}
	return nil
}

func (d *decoder) batch(data []byte) (b Batch, err error) {
	err = d.fields(data, func(f protowire.Number, v value) error {
		switch f {
		case resourceSpansResource:
			return d.fields(v.bytes, func(f protowire.Number, v value) error {
				return d.attribute(f == resourceAttributes, v, &b.Attributes)
			})
		case resourceSpansScopeSpans:
			return d.fields(v.bytes, func(f protowire.Number, v value) error {
				if f == scopeSpansScope {
					return nil // the writer's own, which is compared
				}
				s, err := d.span(v.bytes)
				b.Spans = append(b.Spans, s)
				return err
			})
		}
		return errForm
	})
	if err == nil && (len(b.Attributes) == 0 || b.Attributes[0].Key != "service.name") {
		err = errForm
	}
	if err != nil {
		return b, err
	}
	b.Service, b.Attributes = b.Attributes[0].Value, b.Attributes[1:]
	if len(b.Attributes) == 0 {
		b.Attributes = nil
	}
	return b, nil
}

func (d *decoder) span(data []byte) (s Span, err error) {
	if err := d.make(); err != nil {
		return s, err
	}
	return s, d.fields(data, func(f protowire.Number, v value) error {
		switch f {
		case spanTraceID:
			copy(s.Trace[:], v.bytes)
		case spanSpanID:
			copy(s.Span[:], v.bytes)
		case spanParentSpanID:
			copy(s.Parent[:], v.bytes)
		case spanName:
			s.Name = string(v.bytes)
		case spanKind:
			s.Kind = Kind(v.number)
		case spanStart:
			s.Start = int64(v.number)
		case spanEnd:
			s.End = int64(v.number)
		case spanAttributes:
			return d.attribute(true, v, &s.Attributes)
		case spanStatus:
			return d.fields(v.bytes, func(f protowire.Number, v value) error {
				if f == statusMessage {
					s.Error = string(v.bytes)
				}
				return nil
			})
		default:
			return errForm
		}
		return nil
	})
}

func (d *decoder) attribute(right bool, v value, to *[]Attribute) error {
	if !right {
		return errForm
	}
	if err := d.make(); err != nil {
		return err
	}
	var a Attribute
	err := d.fields(v.bytes, func(f protowire.Number, v value) error {
		if f == keyValueKey {
			a.Key = string(v.bytes)
			return nil
		}
		return d.fields(v.bytes, func(_ protowire.Number, v value) error {
			a.Value = string(v.bytes)
			return nil
		})
	})
	*to = append(*to, a)
	return err
}
