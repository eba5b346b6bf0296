package logs

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
)

// maxFields bounds how many fields a line may have: those of runtimes have some twenty.
const maxFields = 256

// pair is one key=value.
type pair struct{ key, value string }

// logfmt takes a line apart. A value is bare, up to the next space, or quoted as Go quotes strings: logrus and slog do
// both by strconv.Quote, whose \x1b is not JSON's.
func logfmt(line string) ([]pair, error) {
	var out []pair
	for {
		line = strings.TrimLeft(line, " ")
		if line == "" {
			return out, nil
		}
		if len(out) == maxFields {
			return nil, fmt.Errorf("it has more than %d fields", maxFields)
		}
		n := strings.IndexAny(line, "= \"")
		if n <= 0 || line[n] != '=' {
			return nil, fmt.Errorf("no key=value: %s", excerpt(line))
		}
		p := pair{key: line[:n]}
		line = line[n+1:]
		if strings.HasPrefix(line, `"`) {
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("the quotation of %s does not end: %s", p.key, excerpt(line))
			}
			if p.value, err = strconv.Unquote(quoted); err != nil {
				return nil, fmt.Errorf("the quotation of %s: %w", p.key, err)
			}
			if line = line[len(quoted):]; line != "" && line[0] != ' ' {
				return nil, fmt.Errorf("no space behind the value of %s: %s", p.key, excerpt(line))
			}
		} else {
			p.value, line, _ = strings.Cut(line, " ")
			if strings.Contains(p.value, `"`) {
				return nil, fmt.Errorf("a quotation within the value of %s: %s", p.key, excerpt(p.value))
			}
		}
		out = append(out, p)
	}
}

// excerpt is the beginning of what is wrong, for a message.
func excerpt(s string) string {
	const most = 40
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strconv.Quote(s)
}

// errElse is that a line is of a program that is no runtime.
var errElse = errors.New("another program's line")

// parse makes a record of a line.
func parse(line string) (Record, error) {
	pairs, err := logfmt(line)
	if err != nil {
		return Record{}, err
	}
	var r Record
	for _, p := range pairs {
		if err := r.set(p.key, p.value); err != nil {
			return Record{}, err
		}
	}
	if r.Name == "" && r.Source == "" {
		return r, errElse
	}
	return r, nil
}

// set puts a field where it belongs.
func (r *Record) set(key, value string) (err error) {
	switch key {
	case "time", "ts":
		if r.Time, err = time.Parse(time.RFC3339Nano, value); err != nil {
			return fmt.Errorf("its time is none: %s", excerpt(value))
		}
	case "level":
		if r.Level = strings.ToLower(value); rank(r.Level) >= 0 {
			r.Level = levels[rank(r.Level)][0]
		}
	case "pid":
		if r.Pid, err = strconv.Atoi(value); err != nil || r.Pid < 0 {
			return fmt.Errorf("its pid is none: %s", excerpt(value))
		}
	case "msg":
		r.Msg = value
	case "source":
		r.Source = value
	case "name":
		r.Name = value
	case "container":
		r.Container = value
	case "sandbox":
		r.Sandbox = value
	default:
		if r.Data == nil {
			r.Data = map[string]string{}
		}
		r.Data[key] = value
	}
	return nil
}

// Console lines of a guest come in a field of their own: line of ours, vmconsole of Kata Containers' runtimes.
var consoleFields = []string{"line", "vmconsole"}

// unpack makes a record of what an agent has written on the console, and says whether there was something. In the
// record it comes from, the console line is a field. An error is that the agent seems to have begun a record, and the
// kernel, which writes to the same console, or the end of a line cut it short.
func (r *Record) unpack() (Record, bool, error) {
	for _, f := range consoleFields {
		line, ok := r.Data[f]
		if !ok {
			continue
		}
		if strings.HasPrefix(line, "{") {
			in, err := r.unpackJSON(line)
			return in, err == nil, err
		}
		if text, ok := strings.CutPrefix(line, agentapi.LinePrefix); ok {
			return r.unpackText(text), true, nil
		}
	}
	return Record{}, false, nil
}

// unpackJSON makes a record of an object of an agent's log, ours or Kata Containers'.
func (r *Record) unpackJSON(line string) (Record, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(line), &object); err != nil {
		return Record{}, fmt.Errorf("what the agent logs: %w", err)
	}
	if len(object) > maxFields {
		return Record{}, fmt.Errorf("what the agent logs has more than %d fields", maxFields)
	}
	in := r.within()
	for key, raw := range object {
		value := string(raw)
		if len(raw) > 0 && raw[0] == '"' {
			if err := json.Unmarshal(raw, &value); err != nil {
				return Record{}, fmt.Errorf("what the agent logs: %s: %w", key, err)
			}
		}
		if key == "sandbox" && r.Sandbox != "" {
			continue // whose console it is, the host knows better
		}
		if err := in.set(key, value); err != nil {
			return Record{}, fmt.Errorf("what the agent logs: %w", err)
		}
	}
	if in.Msg == "" && in.Level == "" {
		return Record{}, errors.New("what the agent logs has neither msg nor level")
	}
	return in, nil
}

// agentAttrs matches where the fields of a line on the console begin.
var agentAttrs = regexp.MustCompile(` [A-Za-z][A-Za-z0-9_.-]*=`)

// unpackText makes a record of a line that our agent writes on the console: its level unless that is error, the
// message, then key=value.
func (r *Record) unpackText(text string) Record {
	in := r.within()
	in.Level = "error"
	if agentapi.LinePrefix+text == agentapi.InitLine {
		in.Level = "info"
	} else if word, rest, ok := strings.Cut(text, ": "); ok && rank(word) >= 0 {
		in.Level, text = levels[rank(word)][0], rest
	}
	in.Msg = text
	if at := agentAttrs.FindStringIndex(text); at != nil {
		if pairs, err := logfmt(text[at[0]:]); err == nil {
			in.Msg = text[:at[0]]
			for _, p := range pairs {
				if p.key == "container" {
					in.Container = p.value
					continue
				}
				if in.Data == nil {
					in.Data = map[string]string{}
				}
				in.Data[p.key] = p.value // of what else a record has, the console says nothing
			}
		}
	}
	return in
}

// within is the beginning of a record that came in another one.
func (r *Record) within() Record {
	return Record{Time: r.Time, Filename: r.Filename, Line: r.Line, Sandbox: r.Sandbox, Container: r.Container,
		Name: "kata-agent", Source: "agent", Pid: r.Pid}
}
