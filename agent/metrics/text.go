package metrics

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
)

// counter is the kind of what only grows. The zero kind is a gauge.
const counter = "counter"

// family is numbers with one name.
type family struct {
	name, help, kind string
	samples          []sample
}

// sample is one number. Its labels are in the order of the family's.
type sample struct {
	labels []label
	value  float64
}

type label struct{ name, value string }

// The characters that have a meaning in a help, and in a label's value. The format's "Comments, help text, and type
// information" and "Basic info".
var (
	inHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	inLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// write sorts families by name and their samples by labels. A family without samples is left out, and of two samples
// with the same labels the first stays.
func write(families []family) string {
	var b strings.Builder
	for _, f := range slices.SortedFunc(slices.Values(families), func(x, y family) int {
		return cmp.Compare(x.name,
			y.name)
	}) {
		lines := map[string]float64{}
		var keys []string
		for _, s := range f.samples {
			k := s.key()
			if _, twice := lines[k]; !twice {
				keys = append(keys, k)
				lines[k] = s.value
			}
		}
		if len(keys) == 0 {
			continue
		}
		kind := f.kind
		if kind == "" {
			kind = "gauge"
		}
		b.WriteString("# HELP " + f.name + " " + inHelp.Replace(f.help) + "\n# TYPE " + f.name + " " + kind + "\n")
		slices.Sort(keys)
		for _, k := range keys {
			b.WriteString(f.name + k + " " + formatValue(lines[k]) + "\n")
		}
	}
	return b.String()
}

// key is the labels as they are written.
func (s sample) key() string {
	if len(s.labels) == 0 {
		return ""
	}
	var words []string
	for _, l := range s.labels {
		words = append(words, l.name+`="`+inLabel.Replace(strings.ToValidUTF8(l.value, "\uFFFD"))+`"`)
	}
	return "{" + strings.Join(words, ",") + "}"
}

func formatValue(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	case math.IsNaN(v):
		return "NaN"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}
