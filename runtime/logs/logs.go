// Package logs reads the log lines of runtimes for virtual machines, ours and Kata Containers', and of their guests'
// agents, and writes them in order of time, in formats for people and for programs.
//
// A line is logfmt (key=value, values quoted as Go quotes strings), as containerd's journal has it. A guest's console
// comes in such lines, and what its agent logs there is unpacked into records of its own. Nothing of a guest reaches a
// terminal as it came.
package logs

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Record is one line. The names of its fields, in formats for programs, are those of Kata Containers' log parser.
type Record struct {
	Time      time.Time
	Filename  string // "-" for standard input, "journal" for the journal
	Level     string // one word in lower case, such as info or warning
	Msg       string
	Source    string            // part of the system, such as katabuild-shim or agent
	Name      string            // program
	Container string            // empty for none
	Sandbox   string            // empty for none
	Data      map[string]string `xml:"-"` // all other fields; XML has no maps
	Line      uint64            // in Filename, from 1
	Count     uint64            // number of the record in the output, from 1
	TimeDelta int64             // nanoseconds since the record before
	Pid       int               // 0 for none
}

// Lost is a line of which no record could be made.
type Lost struct {
	Filename string
	Line     uint64
	Why      string
}

// Error is file:line and why.
func (l *Lost) Error() string { return fmt.Sprintf("%s:%d: %s", l.Filename, l.Line, l.Why) }

// Levels from the least to the most serious, each with its other spellings: of logrus, slog, and Kata Containers'
// agent in Rust, whose words have four letters.
var levels = [][]string{
	{"trace", "trce"},
	{"debug", "debg"},
	{"info"},
	{"warning", "warn"},
	{"error", "erro"},
	{"critical", "crit", "fatal"},
	{"panic"},
}

// Levels are the words of Record.Level, from the least to the most serious.
func Levels() []string {
	out := make([]string, len(levels))
	for i, words := range levels {
		out[i] = words[0]
	}
	return out
}

// rank is where a level stands, and -1 for what is no level.
func rank(level string) int {
	return slices.IndexFunc(levels, func(words []string) bool { return slices.Contains(words, level) })
}

// Filter says which records are wanted.
type Filter struct {
	Sandbox   string // beginning of its ID; empty for all
	Container string // likewise
	Level     string // one of Levels: this one and more serious ones; empty for all
}

// Wants says whether a record is wanted. One of an unknown level is not less serious than any other.
func (f Filter) Wants(r *Record) bool {
	if at := rank(r.Level); f.Level != "" && at >= 0 && at < rank(f.Level) {
		return false
	}
	return begins(r.Sandbox, f.Sandbox) && begins(r.Container, f.Container)
}

func begins(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// Order puts records in order of time, those of one moment as they came, and counts them.
func Order(records []Record) {
	slices.SortStableFunc(records, func(a, b Record) int { return a.Time.Compare(b.Time) })
	var last time.Time
	for i := range records {
		records[i].follow(last, uint64(i))
		last = records[i].Time
	}
}

// follow counts a record behind others, the last of them at a time.
func (r *Record) follow(last time.Time, before uint64) {
	r.Count = before + 1
	if before > 0 {
		r.TimeDelta = r.Time.Sub(last).Nanoseconds()
	}
}

// check says what a record lacks; strictly, or only what nothing can be done without.
func (r *Record) check(lenient bool) string {
	if r.Time.IsZero() {
		return "it has no time"
	}
	if lenient {
		return ""
	}
	for _, f := range []struct{ name, value string }{{"level", r.Level}, {"name", r.Name}, {"source", r.Source}} {
		if f.value == "" {
			return "it has no " + f.name
		}
		if slices.ContainsFunc([]rune(f.value), func(c rune) bool { return c == ' ' || c == '\t' }) {
			return fmt.Sprintf("its %s is not one word: %q", f.name, f.value)
		}
	}
	if r.Pid <= 0 {
		return "it has no pid"
	}
	return ""
}

// field is one of Data, in order of names.
type field struct{ name, value string }

func (r *Record) fields() []field {
	out := make([]field, 0, len(r.Data))
	for k, v := range r.Data {
		out = append(out, field{k, v})
	}
	slices.SortFunc(out, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return out
}
