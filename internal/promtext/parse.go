package promtext

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits bound what is taken from somebody. A zero is no limit.
type Limits struct {
	Bytes    int // of the text
	Line     int // bytes of one line
	Families int
	Samples  int // of all families
	// Family says whether a family may be; nil lets any. It sees the name.
	Family func(name string) bool
	// Label says whether a label may be; nil lets any. It sees the name.
	Label func(name string) bool
	// Simple lets no histograms and no summaries.
	Simple bool
}

// reader reads one text.
type reader struct {
	l       Limits
	out     []Family
	at      map[string]int // of out, by name
	seen    map[string]bool
	dropped int
}

// Parse reads a text. What is no metric, is beyond the limits or says a thing twice is left out; dropped is how many
// lines that are. What is returned can be written, and is a text that any reader takes. The time of a sample is left
// out: who reads knows when.
func Parse(text string, l Limits) (families []Family, dropped int) {
	r := &reader{l: l, at: map[string]int{}, seen: map[string]bool{}}
	if l.Bytes > 0 && len(text) > l.Bytes {
		n := strings.LastIndexByte(text[:l.Bytes], '\n') + 1
		for range strings.Lines(text[n:]) {
			r.dropped++
		}
		text = text[:n]
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.Trim(line, " \t") == "" {
			continue
		}
		if l.Line > 0 && len(line) > l.Line || !clean(line) || !r.line(line) {
			r.dropped++
		}
	}
	return slices.DeleteFunc(r.out, func(f Family) bool { return len(f.Samples) == 0 }), r.dropped
}

// clean says whether a terminal shows all of a line, and does nothing.
func clean(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 // ISO 8859's control characters are among them
	})
}

// line takes a line, or says that it is none.
func (r *reader) line(s string) bool {
	if comment, is := strings.CutPrefix(s, "#"); is {
		return r.comment(strings.TrimLeft(comment, " \t"))
	}
	name, rest := word(s, true)
	if name == "" {
		return false
	}
	labels := ""
	if inner, has := strings.CutPrefix(strings.TrimLeft(rest, " \t"), "{"); has {
		var ok bool
		if labels, rest, ok = r.labels(inner); !ok {
			return false
		}
	} else if rest == "" || rest[0] != ' ' && rest[0] != '\t' {
		return false
	}
	f := strings.Fields(rest)
	if len(f) == 0 || len(f) > 2 || !number(f[0]) {
		return false
	}
	if len(f) == 2 {
		if _, err := strconv.ParseInt(f[1], 10, 64); err != nil {
			return false
		}
	}
	return r.sample(name, labels, f[0])
}

// comment takes what stands behind #: HELP and TYPE.
func (r *reader) comment(s string) bool {
	what, rest := cutSpace(s)
	name, text := cutSpace(rest)
	if w, more := word(name, true); w == "" || more != "" {
		return false
	}
	var kind Kind
	switch what {
	case "HELP":
		if !validHelp(text) {
			return false
		}
	case "TYPE":
		kind = Kind(strings.TrimRight(text, " \t"))
		if !slices.Contains([]Kind{Counter, Gauge, Histogram, summary, untyped}, kind) ||
			r.l.Simple && (kind == Histogram || kind == summary) {
			return false
		}
	default:
		return false
	}
	f := r.family(name)
	if f == nil || len(f.Samples) > 0 {
		return false
	}
	if what == "HELP" {
		if f.Help != "" {
			return false
		}
		f.Help = unescape(text)
		return true
	}
	if f.Kind != "" {
		return false
	}
	f.Kind = kind
	return true
}

// family is the one of a name, made where there is none; nil where there may be none.
func (r *reader) family(name string) *Family {
	if i, there := r.at[name]; there {
		return &r.out[i]
	}
	if r.l.Families > 0 && len(r.out) >= r.l.Families || r.l.Family != nil && !r.l.Family(name) {
		return nil
	}
	r.at[name] = len(r.out)
	r.out = append(r.out, Family{Name: name})
	return &r.out[len(r.out)-1]
}

// suffixes are what samples of histograms and summaries have behind the family's name.
var suffixes = map[Kind][]string{Histogram: {"_bucket", "_sum", "_count"}, summary: {"_sum", "_count", ""}}

func (r *reader) sample(name, labels, value string) bool {
	if r.l.Samples > 0 && len(r.seen) >= r.l.Samples {
		return false
	}
	base, suffix := r.base(name)
	f := r.family(base)
	if f == nil || suffixes[f.Kind] != nil && !slices.Contains(suffixes[f.Kind], suffix) {
		return false
	}
	key := name + "{" + labels
	if r.seen[key] {
		return false
	}
	r.seen[key] = true
	if f.Kind == "" {
		f.Kind = untyped
	}
	f.Samples = append(f.Samples, Sample{Suffix: suffix, Labels: labels, Value: value})
	return true
}

// base finds the family of a sample.
func (r *reader) base(name string) (base, suffix string) {
	for _, s := range []string{"_bucket", "_sum", "_count"} {
		if b, has := strings.CutSuffix(name, s); has {
			if i, there := r.at[b]; there && slices.Contains(suffixes[r.out[i].Kind], s) {
				return b, s
			}
		}
	}
	return name, ""
}

// labels reads what stands behind {, and returns it in one form, with what is behind }.
func (r *reader) labels(s string) (labels, rest string, ok bool) {
	var b strings.Builder
	var names []string
	for s = skip(s); ; s = skip(s) {
		if rest, end := strings.CutPrefix(s, "}"); end {
			return b.String(), rest, true
		}
		if len(names) > 0 && s != "" && s[0] == ',' {
			if s = skip(s[1:]); strings.HasPrefix(s, "}") {
				return b.String(), s[1:], true
			}
		} else if len(names) > 0 {
			return "", "", false
		}
		name, more := word(s, false)
		value, is := strings.CutPrefix(skip(more), "=")
		if name == "" || !is || strings.HasPrefix(name, "__") || slices.Contains(names, name) ||
			r.l.Label != nil && !r.l.Label(name) {
			return "", "", false
		}
		value = skip(value)
		n := quoted(value)
		if n == 0 {
			return "", "", false
		}
		if len(names) > 0 {
			b.WriteByte(',')
		}
		names = append(names, name)
		b.WriteString(name + "=" + value[:n])
		s = value[n:]
	}
}

// quoted is the length of the string in quotation marks that s begins with; 0 for none.
func quoted(s string) int {
	if s == "" || s[0] != '"' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return i + 1
		case '\\':
			if i++; i == len(s) || !strings.ContainsRune(`\"n`, rune(s[i])) {
				return 0
			}
		}
	}
	return 0
}

// validHelp says whether each backslash is one of those that mean something.
func validHelp(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			if i++; i == len(s) || s[i] != '\\' && s[i] != 'n' {
				return false
			}
		}
	}
	return true
}

func unescape(s string) string { return strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(s) }

// number says whether s is one, in decimal.
func number(s string) bool {
	switch s {
	case "NaN", "+Inf", "-Inf":
		return true
	}
	if strings.Trim(s, "+-0123456789.eE") != "" {
		return false
	}
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

// maxName is how long a name may be, in bytes.
const maxName = 200

// word is the name that s begins with, with what follows; a metric's may have colons.
func word(s string, colon bool) (name, rest string) {
	i := strings.IndexFunc(s, func(c rune) bool {
		return !(c == '_' || c == ':' && colon || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9')
	})
	if i < 0 {
		i = len(s)
	}
	if i == 0 || i > maxName || s[0] >= '0' && s[0] <= '9' {
		return "", s
	}
	return s[:i], s[i:]
}

func skip(s string) string { return strings.TrimLeft(s, " \t") }

// cutSpace cuts s behind its first word.
func cutSpace(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], skip(s[i:])
}
