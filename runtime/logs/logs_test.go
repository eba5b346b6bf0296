package logs

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/pelletier/go-toml/v2"

	"github.com/katabuild/katabuild/internal/golden"
)

// Lines as runtimes write them: our shim (slog), Kata Containers' shim (logrus) with its agent's records on the
// console, our agent on the console, and containerd itself.
//
//go:embed testdata/lines.log
var sample string

const containerd = `time="2026-11-30T16:05:00.1Z" level=info msg="starting containerd" revision=abc ` +
	"version=2.4.2\n"

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		panic(err)
	}
	return t
}

// read reads all of a text; what is lost ends it.
func read(x Reader, text string) ([]Record, error) {
	return x.All(strings.NewReader(text), "/a.log", Filter{}, nil, func(l *Lost) error { return l })
}

func TestLinesOfAllKinds(t *testing.T) {
	got, err := read(Reader{}, sample)
	if err != nil {
		t.Fatal(err)
	}
	Order(got)
	shim := func(r Record) Record {
		r.Filename, r.Sandbox, r.Pid = "/a.log", "one", 7
		return r
	}
	const agent, name = "agent", "containerd-shim-kata-v2"
	want := []Record{
		shim(Record{Time: at("2026-11-30T15:05:02Z"), Level: "info", Msg: "console", Name: name, Line: 6,
			Source: "katabuild-shim", Data: map[string]string{"line": "[    0.34] PCI: \x1b[31mFatal\x1b[0m"}}),
		{Time: at("2026-11-30T16:05:00.000000002Z"), Filename: "/a.log", Level: "warning", Msg: "handling signal",
			Name: "kata-agent", Source: agent, Sandbox: "three", Pid: 1, Line: 2, TimeDelta: 3598000000002,
			Data: map[string]string{"version": "0.1.0", "signal": "15"}},
		shim(Record{Time: at("2026-11-30T16:05:00.000000003Z"), Level: "info", Msg: "the machine grows", Name: name,
			Line: 1, Source: "katabuild-shim", Container: "two", Data: map[string]string{"cpus": "2"}, TimeDelta: 1}),
		shim(Record{Time: at("2026-11-30T16:05:01Z"), Level: "debug", Msg: "timeline", Name: "kata-agent", Line: 3,
			Source: agent, Data: map[string]string{"start": "2.26s"}, TimeDelta: 999999997}),
		shim(Record{Time: at("2026-11-30T16:05:01Z"), Level: "error", Name: "kata-agent", Line: 5, Source: agent,
			Msg: "no containers: cgroups /sys/fs/cgroup: no such file or directory"}),
	}
	for i := range want {
		want[i].Count = uint64(i + 1)
		if i >= len(got) || !got[i].Time.Equal(want[i].Time) {
			t.Fatalf("record %d: %+v, want %+v", i, got, want[i])
		}
		got[i].Time = want[i].Time // whatever the zone
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("record %d:\n%+v, want\n%+v", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
}

// Whose console a line comes from, the host says and not the guest.
func TestAGuestSpeaksForNoOtherPod(t *testing.T) {
	got, err := read(Reader{}, `time=2026-11-30T16:05:01Z level=INFO msg=console name=n pid=7 sandbox=one source=s `+
		`line="{\"msg\":\"a\",\"level\":\"INFO\",\"sandbox\":\"another\",\"container\":\"c\"}"`+"\n")
	if err != nil || len(got) != 1 || got[0].Sandbox != "one" || got[0].Container != "c" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	const good = `time=2026-11-30T16:05:01Z level=info name=n source=s pid=1 msg=m`
	const cut = good + ` line="{\"msg\":\"a\",\"lev[    0.3] kernel"`
	for _, c := range []struct {
		name, text string
		x          Reader
		want       string
	}{
		{"no field", "panic: something", Reader{}, `no key=value: "panic: something"`},
		{"an open quotation", good + ` a="b`, Reader{}, `the quotation of a does not end: "\"b"`},
		{"a bad escape", good + ` a="\q"`, Reader{}, "the quotation of a does not end"},
		{"no space", good + ` a="b"c=d`, Reader{}, `no space behind the value of a: "c=d"`},
		{"a late quotation", good + ` a=b"c"`, Reader{}, "a quotation within the value of a"},
		{"no time", "level=info name=n source=s pid=1", Reader{}, "it has no time"},
		{"no time, leniently", "level=info name=n source=s pid=1", Reader{Lenient: true}, "it has no time"},
		{"a bad time", "time=now name=n", Reader{}, `its time is none: "now"`},
		{"no level", "time=2026-11-30T16:05:01Z name=n source=s pid=1", Reader{}, "it has no level"},
		{"no name", "time=2026-11-30T16:05:01Z level=info source=s pid=1", Reader{}, "it has no name"},
		{"no source", "time=2026-11-30T16:05:01Z level=info name=n pid=1", Reader{}, "it has no source"},
		{"no pid", "time=2026-11-30T16:05:01Z level=info name=n source=s", Reader{}, "it has no pid"},
		{"no pid, leniently", "time=2026-11-30T16:05:01Z name=n", Reader{Lenient: true}, ""},
		{"a bad pid", "time=2026-11-30T16:05:01Z name=n pid=-1", Reader{Lenient: true}, `its pid is none: "-1"`},
		{"two words", `time=2026-11-30T16:05:01Z level=info name=n source="a b" pid=1`, Reader{},
			`its source is not one word: "a b"`},
		{"another's", containerd, Reader{}, "another program's line"},
		{"another's, passed over", containerd, Reader{Others: true}, ""},
		{"another's, leniently", containerd, Reader{Lenient: true}, ""},
		{"an agent's that is cut", cut, Reader{}, ""},
		{"an agent's that is cut, strictly", cut, Reader{Strict: true}, "what the agent logs: "},
		{"an agent's that is cut, packed", cut, Reader{Strict: true, Packed: true}, ""},
		{"an agent's list", good + ` line="{\"a\":[1,2]}"`, Reader{Strict: true}, "neither msg nor level"},
		{"too many fields", good + strings.Repeat(" a=b", maxFields), Reader{}, "it has more than 256 fields"},
		{"too long", good + " a=" + strings.Repeat("b", maxLine), Reader{}, "it has more than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := read(c.x, good+"\n"+c.text+"\n"+good)
			var lost *Lost
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (!errors.As(err, &lost) || !strings.HasPrefix(err.Error(), "/a.log:2: ") ||
				!strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestFilters(t *testing.T) {
	all, err := read(Reader{}, sample)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, Record{Level: "strange", Sandbox: "one"})
	for _, c := range []struct {
		f    Filter
		want int
	}{
		{Filter{}, 6},
		{Filter{Sandbox: "o"}, 5},
		{Filter{Sandbox: "ones"}, 0},
		{Filter{Container: "tw"}, 1},
		{Filter{Level: "warning"}, 3},
		{Filter{Level: "error", Sandbox: "three"}, 0},
		{Filter{Level: "trace"}, 6},
	} {
		n := 0
		for i := range all {
			if c.f.Wants(&all[i]) {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%+v: %d records, want %d", c.f, n, c.want)
		}
	}
}

func TestText(t *testing.T) {
	records, err := read(Reader{}, sample)
	if err != nil {
		t.Fatal(err)
	}
	Order(records)
	var b strings.Builder
	if err := Write(&b, "text", records); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "lines.txt", []byte(b.String()))
}

func TestDeltasHaveNineCharacters(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "+0s", 999: "+1µs", 1204500: "+1.205ms", time.Second: "+1s",
		59*time.Second + 994*time.Millisecond: "+59.99s", 61 * time.Second: "+1m1s", time.Hour: "+1h0m",
		99*time.Hour + 59*time.Minute: "+99h59m", 100 * time.Hour: "+100h", 999999 * time.Hour: "+999999h"} {
		if got := delta(int64(d)); got != want || len([]rune(got)) > 9 {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

// Each format for programs is read back by a reader of its own.
func TestFormatsForPrograms(t *testing.T) {
	records, err := read(Reader{}, sample)
	if err != nil {
		t.Fatal(err)
	}
	Order(records)
	write := func(format string) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := Write(&b, format, records); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for format, decode := range map[string]func([]byte, any) error{"json": json.Unmarshal, "toml": toml.Unmarshal,
		"yaml": yaml.Unmarshal} {
		var d struct {
			FormatVersion string           `yaml:"formatversion"`
			Entries       []map[string]any `yaml:"entries"`
		}
		if err := decode(write(format), &d); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if d.FormatVersion != "0.0.2" || len(d.Entries) != 5 {
			t.Errorf("%s: %+v", format, d)
		}
	}
	var back document
	if err := json.Unmarshal(write("json"), &back); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if back.Entries[i].Text() != records[i].Text() || back.Entries[i].Pid != records[i].Pid {
			t.Errorf("json: %+v, want %+v", back.Entries[i], records[i])
		}
	}
	rows, err := csv.NewReader(bytes.NewReader(write("csv"))).ReadAll()
	if err != nil || len(rows) != 6 || rows[0][3] != "Msg" || rows[2][3] != "handling signal" ||
		rows[2][8] != `{"signal":"15","version":"0.1.0"}` {
		t.Errorf("csv: %q, %v", rows, err)
	}
	var x struct {
		Entries []struct {
			Msg  string
			Data struct {
				Field []struct {
					Name  string `xml:",attr"`
					Value string `xml:",chardata"`
				}
			}
		}
	}
	if err := xml.Unmarshal(write("xml"), &x); err != nil {
		t.Fatal(err)
	}
	if len(x.Entries) != 5 || x.Entries[1].Msg != "handling signal" || x.Entries[1].Data.Field[0].Name != "signal" ||
		x.Entries[1].Data.Field[0].Value != "15" {
		t.Errorf("xml: %+v", x)
	}
	if err := Write(io.Discard, "ron", nil); err == nil || !strings.Contains(err.Error(), "csv, json, text") {
		t.Errorf("ron: %v", err)
	}
	if got := Formats(); !slices.IsSorted(got) {
		t.Error(got)
	}
}

func TestAStreamCountsAsItGoes(t *testing.T) {
	var b strings.Builder
	s := &Stream{W: &b, JSON: true}
	for _, r := range []Record{{Time: time.Unix(1, 0).UTC()}, {Time: time.Unix(1, 5).UTC()}} {
		if err := s.Write(r); err != nil {
			t.Fatal(err)
		}
	}
	d := json.NewDecoder(strings.NewReader(b.String()))
	for i, want := range []int64{0, 5} {
		var r Record
		if err := d.Decode(&r); err != nil || r.Count != uint64(i+1) || r.TimeDelta != want {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// A guest writes what it likes on its console.
func FuzzText(f *testing.F) {
	for l := range strings.Lines(sample + containerd) {
		f.Add(l)
	}
	f.Add(`time=2026-11-30T16:05:01Z name=n ` +
		`vmconsole="{\"msg\":\"\u202e\\u001b]0;x\\u0007\",\"level\":\"\",\"pid\":\"x\"}"`)
	f.Fuzz(func(t *testing.T, line string) {
		got, err := read(Reader{Lenient: true}, line)
		if err != nil {
			return
		}
		Order(got)
		for _, format := range Formats() {
			var b bytes.Buffer
			if err := Write(&b, format, got); err != nil && format != "toml" && format != "yaml" {
				t.Errorf("%s: %v", format, err)
			}
			if format != "text" {
				continue
			}
			if n := bytes.Count(b.Bytes(), []byte("\n")); n != len(got) {
				t.Errorf("%d lines for %d records", n, len(got))
			}
			for _, r := range b.String() {
				if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e) {
					t.Errorf("%q", b.String())
				}
			}
		}
	})
}
