// Package promtext is Prometheus' text format 0.0.4, written, and read from those who are not trusted.
//
// In come families of numbers, out comes the text, each family in one piece; and the other way round, within limits. It
// does not know what is counted.
//
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
package promtext

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
)

// ContentType is that of the text in HTTP.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Kind is what the numbers of a family are.
type Kind string

// The kinds. The zero value is of nobody knows which.
const (
	Counter   Kind = "counter" // it only grows
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
	summary   Kind = "summary"
	untyped   Kind = "untyped"
)

// Family is numbers with one name.
type Family struct {
	Name, Help string
	Kind       Kind
	Samples    []Sample
}

// Sample is one number.
type Sample struct {
	Suffix string // behind the family's name: empty, or what a histogram or summary has there
	Labels string // as Labels makes them; empty is none
	Value  string // as Value makes it
}

var inHelp = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
var inLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// Labels makes labels of names and values in turn.
func Labels(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(pairs[i])
		b.WriteString(`="`)
		b.WriteString(inLabel.Replace(strings.ToValidUTF8(pairs[i+1], "\uFFFD")))
		b.WriteByte('"')
	}
	return b.String()
}

// Join puts labels behind others.
func Join(labels, more string) string {
	if labels == "" || more == "" {
		return labels + more
	}
	return labels + "," + more
}

// Value writes a number.
func Value(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// Int writes a whole number.
func Int(v int64) string { return strconv.FormatInt(v, 10) }

// Append writes families behind b, in their order. One without samples is left out.
func Append(b []byte, families []Family) []byte {
	for _, f := range families {
		if len(f.Samples) == 0 {
			continue
		}
		if f.Help != "" {
			b = append(append(b, "# HELP "...), f.Name...)
			b = append(append(append(b, ' '), inHelp.Replace(f.Help)...), '\n')
		}
		b = append(append(b, "# TYPE "...), f.Name...)
		b = append(append(append(b, ' '), cmp.Or(f.Kind, untyped)...), '\n')
		for _, s := range f.Samples {
			b = append(append(b, f.Name...), s.Suffix...)
			if s.Labels != "" {
				b = append(append(append(b, '{'), s.Labels...), '}')
			}
			b = append(append(append(b, ' '), s.Value...), '\n')
		}
	}
	return b
}

// Merge puts samples of families of the same name together, in the order of names. Where they are not all of one kind,
// nobody knows which it is: the numbers stay.
func Merge(lists ...[]Family) []Family {
	var out []Family
	at := map[string]int{}
	for _, list := range lists {
		for _, f := range list {
			f.Kind = cmp.Or(f.Kind, untyped)
			i, there := at[f.Name]
			if !there {
				at[f.Name] = len(out)
				f.Samples = slices.Clone(f.Samples)
				out = append(out, f)
				continue
			}
			if out[i].Kind != f.Kind {
				out[i].Kind = untyped
			}
			out[i].Samples = append(out[i].Samples, f.Samples...)
		}
	}
	slices.SortFunc(out, func(a, b Family) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
