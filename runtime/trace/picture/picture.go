// Package picture draws a trace for people: as lines of text, as a picture in SVG, or as OpenTelemetry's JSON.
//
// In come spans, those of guests too, which nobody vouches for: a guest's span cannot stretch the picture, hide another
// one or be more than a row.
package picture

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/runtime/trace"
)

// maxRows bounds a picture. What is left out is counted.
const maxRows = 500

// Picture is one trace, ready to be drawn.
type Picture struct {
	Title string
	Trace spans.TraceID
	Rows  []Row
	Total time.Duration // from the first moment to the last one
	Left  int           // spans that are not among Rows
}

// Row is a span, in its place below what it is a part of.
type Row struct {
	Depth int
	Name  string
	Of    Word
	From  time.Duration // since the first moment
	Took  time.Duration
	Error string
	Notes []spans.Attribute
}

// Word is whose word a span is.
type Word int

// Whose words there are.
const (
	host  Word = iota
	guest      // the host's word about a moment that the guest told, or the guest's own
)

// errNoStart says that spans hold no trace of the name that was asked for.
var errNoStart = errors.New("there is no such trace")

// placed is a span with its service.
type placed struct {
	spans.Span
	of Word
}

// New makes the picture of the first trace that has a span called name from the host.
func New(batches []spans.Batch, name string) (*Picture, error) {
	var all []placed
	var id spans.TraceID
	for _, b := range batches {
		of := host
		if b.Service == spans.AgentService {
			of = guest
		}
		for _, s := range b.Spans {
			if s.Name == name && of == host && id == (spans.TraceID{}) {
				id = s.Trace
			}
			all = append(all, placed{s, of})
		}
	}
	if id == (spans.TraceID{}) {
		return nil, errNoStart
	}
	all = slices.DeleteFunc(all, func(p placed) bool { return p.Trace != id })
	return layOut(all, id, title(batches, name)), nil
}

func title(batches []spans.Batch, name string) string {
	for _, b := range batches {
		for _, a := range b.Attributes {
			if a.Key == trace.PodKey {
				return name + " " + a.Value
			}
		}
	}
	return name
}

// layOut puts spans in their places. The host's alone say where the picture begins and ends.
func layOut(all []placed, id spans.TraceID, title string) *Picture {
	p := &Picture{Title: title, Trace: id}
	first, last := int64(0), int64(0)
	known := map[spans.SpanID]bool{}
	for _, s := range all {
		if s.of == host {
			if first == 0 || s.Start < first {
				first = s.Start
			}
			last = max(last, s.End)
		}
		known[s.Span.Span] = true
	}
	p.Total = time.Duration(last - first)
	slices.SortStableFunc(all, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(b.End, a.End))
	})
	children := map[spans.SpanID][]placed{}
	for _, s := range all {
		parent := s.Parent
		if !known[parent] || parent == s.Span.Span { // it is another process's, or was lost
			parent = spans.SpanID{}
		}
		children[parent] = append(children[parent], s)
	}
	seen := map[spans.SpanID]bool{}
	var walk func(of spans.SpanID, depth int)
	walk = func(of spans.SpanID, depth int) {
		for _, s := range children[of] {
			if seen[s.Span.Span] || len(p.Rows) == maxRows {
				continue
			}
			seen[s.Span.Span] = true
			at := func(t int64) int64 { return min(max(t, first), last) - first }
			row := Row{Depth: depth, Name: s.Name, Of: s.of, From: time.Duration(at(s.Start)),
				Took: time.Duration(at(s.End) - at(s.Start)), Error: s.Error, Notes: s.Attributes}
			if slices.ContainsFunc(s.Attributes, func(a spans.Attribute) bool { return a.Key == trace.GuestKey }) {
				row.Of = guest
			}
			p.Rows = append(p.Rows, row)
			walk(s.Span.Span, depth+1)
		}
	}
	walk(spans.SpanID{}, 0)
	p.Left = len(all) - len(p.Rows)
	return p
}
