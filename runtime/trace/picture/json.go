package picture

import (
	"strconv"

	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/spans"
)

// OTLP's JSON form: opentelemetry-proto, "JSON Protobuf Encoding" of its specification. Ids are hexadecimal, 64-bit
// numbers are texts, enumerations are numbers.
type (
	jsonRequest struct {
		ResourceSpans []jsonResourceSpans `json:"resourceSpans"`
	}
	jsonResourceSpans struct {
		Resource   jsonResource     `json:"resource"`
		ScopeSpans []jsonScopeSpans `json:"scopeSpans"`
	}
	jsonResource struct {
		Attributes []jsonAttribute `json:"attributes"`
	}
	jsonScopeSpans struct {
		Scope struct {
			Name string `json:"name"`
		} `json:"scope"`
		Spans []jsonSpan `json:"spans"`
	}
	jsonSpan struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		Parent     string          `json:"parentSpanId,omitempty"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Start      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []jsonAttribute `json:"attributes,omitempty"`
		Status     *jsonStatus     `json:"status,omitempty"`
	}
	jsonStatus struct {
		Message string `json:"message"`
		Code    int    `json:"code"`
	}
	jsonAttribute struct {
		Key   string `json:"key"`
		Value struct {
			String string `json:"stringValue"`
		} `json:"value"`
	}
)

// JSON is all spans in OTLP's JSON form, which other programs read.
func JSON(batches []spans.Batch) ([]byte, error) {
	out := jsonRequest{ResourceSpans: []jsonResourceSpans{}}
	for _, b := range batches {
		of := jsonScopeSpans{Spans: []jsonSpan{}}
		of.Scope.Name = spans.Scope
		for _, s := range b.Spans {
			j := jsonSpan{TraceID: s.Trace.String(), SpanID: s.Span.String(), Name: s.Name, Kind: int(s.Kind),
				Start: strconv.FormatInt(s.Start, 10), End: strconv.FormatInt(s.End, 10),
				Attributes: attributes(s.Attributes)}
			if s.Parent != (spans.SpanID{}) {
				j.Parent = s.Parent.String()
			}
			if s.Error != "" {
				j.Status = &jsonStatus{s.Error, spans.StatusError}
			}
			of.Spans = append(of.Spans, j)
		}
		service := append([]spans.Attribute{{Key: "service.name", Value: b.Service}}, b.Attributes...)
		out.ResourceSpans = append(out.ResourceSpans, jsonResourceSpans{jsonResource{attributes(service)},
			[]jsonScopeSpans{of}})
	}
	return document.Encode(out)
}

func attributes(list []spans.Attribute) []jsonAttribute {
	var out []jsonAttribute
	for _, a := range list {
		j := jsonAttribute{Key: a.Key}
		j.Value.String = a.Value
		out = append(out, j)
	}
	return out
}
