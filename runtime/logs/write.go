package logs

import (
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/pelletier/go-toml/v2"

	"github.com/katabuild/katabuild/internal/printable"
)

// formatVersion is that of Kata Containers' log parser whose names and types the formats for programs have.
const formatVersion = "0.0.2"

// Formats are the words for Write, sorted.
func Formats() []string { return []string{"csv", "json", "text", "toml", "xml", "yaml"} }

// document is all records for a program.
type document struct {
	FormatVersion string
	Entries       []Record
}

// Write writes records in a format.
func Write(w io.Writer, format string, records []Record) error {
	d := document{formatVersion, records}
	if records == nil {
		d.Entries = []Record{}
	}
	switch format {
	case "text":
		for i := range records {
			if _, err := io.WriteString(w, records[i].Text()); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		return writeCSV(w, records)
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "    ")
		return e.Encode(d)
	case "toml":
		return toml.NewEncoder(w).Encode(d)
	case "xml":
		return writeXML(w, records)
	case "yaml":
		return yaml.NewEncoder(w).Encode(d)
	}
	return fmt.Errorf("format %q: want one of %s", format, strings.Join(Formats(), ", "))
}

// Stream writes records as they come, in the formats that have no end: text, and json, an object a line.
type Stream struct {
	W    io.Writer
	JSON bool

	last  time.Time
	count uint64
}

// Write writes one.
func (s *Stream) Write(r Record) error {
	r.follow(s.last, s.count)
	s.last, s.count = r.Time, r.Count
	if s.JSON {
		return json.NewEncoder(s.W).Encode(r)
	}
	_, err := io.WriteString(s.W, r.Text())
	return err
}

// shown is how many characters of a sandbox's ID a line for people has.
const shown = 12

// Text is the line for people: when, how long after the line before, how serious, who, which pod, what. It has nothing
// that a terminal acts on.
func (r *Record) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %9s %-8s %s", r.Time.Format("2006-01-02T15:04:05.000000Z07:00"), delta(r.TimeDelta),
		word(r.Level), word(r.Source))
	if r.Sandbox != "" {
		b.WriteString(" " + word(r.Sandbox[:min(shown, len(r.Sandbox))]))
	}
	b.WriteString(": " + printable.Clean([]byte(strings.ReplaceAll(r.Msg, "\n", " "))))
	if r.Container != "" && r.Container != r.Sandbox {
		b.WriteString(" container=" + word(r.Container))
	}
	for _, f := range r.fields() {
		v := printable.Clean([]byte(f.value))
		if v != f.value || v == "" || strings.ContainsAny(v, " \"=") {
			v = strconv.Quote(v)
		}
		b.WriteString(" " + word(f.name) + "=" + v)
	}
	return b.String() + "\n"
}

// word makes a field that should be one word one that is harmless.
func word(s string) string {
	if s == "" {
		return "-"
	}
	return strings.ReplaceAll(printable.Clean([]byte(s)), " ", "_")
}

// delta is a duration of at most nine characters, such as +1.204ms.
func delta(ns int64) string {
	d := time.Duration(ns)
	switch {
	case d >= 100*time.Hour:
		return fmt.Sprintf("+%dh", int64(d.Hours()))
	case d >= time.Hour:
		return "+" + d.Round(time.Minute).String()[:len(d.Round(time.Minute).String())-2]
	case d >= time.Second:
		return "+" + d.Round(10*time.Millisecond).String()
	}
	return "+" + d.Round(time.Microsecond).String()
}

func writeCSV(w io.Writer, records []Record) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"Time", "Filename", "Level", "Msg", "Source", "Name", "Container", "Sandbox", "Data", "Line",
		"Count", "TimeDelta", "Pid"}) // Error has it
	for i := range records {
		r := &records[i]
		data := ""
		if len(r.Data) > 0 {
			b, err := json.Marshal(r.Data)
			if err != nil {
				return err
			}
			data = string(b)
		}
		_ = c.Write([]string{r.Time.Format(time.RFC3339Nano), r.Filename, r.Level, r.Msg, r.Source, r.Name,
			r.Container, r.Sandbox, data, fmt.Sprint(r.Line), fmt.Sprint(r.Count), fmt.Sprint(r.TimeDelta),
			fmt.Sprint(r.Pid)})
	}
	c.Flush()
	return c.Error()
}

// xmlField is one of Data: its name may be what no element can be called.
type xmlField struct {
	Name  string `xml:"Name,attr"`
	Value string `xml:",chardata"`
}

// xmlRecord is a record with a list in the place of the map.
type xmlRecord struct {
	Record
	Data struct{ Field []xmlField }
}

func writeXML(w io.Writer, records []Record) error {
	d := struct {
		XMLName       xml.Name `xml:"LogEntries"`
		FormatVersion string
		Entries       []xmlRecord
	}{FormatVersion: formatVersion}
	for i := range records {
		r := xmlRecord{Record: records[i]}
		for _, f := range records[i].fields() {
			r.Data.Field = append(r.Data.Field, xmlField{f.name, f.value})
		}
		d.Entries = append(d.Entries, r)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(d); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
