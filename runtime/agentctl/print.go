package agentctl

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/katabuild/katabuild/internal/printable"
)

// Bounds of what is shown of an answer, in bytes.
const (
	maxShown = 256 << 10
	maxError = 4 << 10
)

// callError is an agent's refusal, or the end of the way to it.
type callError struct {
	Call string
	err  error
}

func (e *callError) Error() string {
	s, is := status.FromError(e.err)
	if !is {
		return e.Call + ": " + shown(e.err.Error(), maxError)
	}
	return fmt.Sprintf("%s: %s: %s", e.Call, s.Code(), shown(s.Message(), maxError))
}

func (e *callError) Unwrap() error { return e.err }

// shown is text of an agent's, fit for a terminal, on one line.
func shown(s string, most int) string {
	s, cut := head(s, most)
	return printable.Clean([]byte(strings.ReplaceAll(s, "\n", " "))) + cut
}

// head is the beginning of a text, and how much there is besides.
func head(s string, most int) (text, cut string) {
	if len(s) <= most {
		return s, ""
	}
	return s[:most], fmt.Sprintf(" … and %d bytes more", len(s)-most)
}

// texts are answers that are text themselves, and the field that has it.
var texts = map[protoreflect.FullName]protoreflect.Name{
	"grpc.Metrics": "metrics", "grpc.ReadStreamResponse": "data", "grpc.GetIPTablesResponse": "data",
	"grpc.SetIPTablesResponse": "data", "grpc.GetDiagnosticDataResponse": "data", "grpc.VolumeStatsResponse": "data",
	"katabuild.report.v1.GetResponse": "report",
}

// printAnswer writes an answer for people: text as lines, everything else as JSON on one line.
func printAnswer(w io.Writer, call string, answer proto.Message) error {
	m := answer.ProtoReflect()
	if name := texts[m.Descriptor().FullName()]; name != "" {
		f := m.Descriptor().Fields().ByName(name)
		text := m.Get(f).String()
		if f.Kind() == protoreflect.BytesKind {
			text = string(m.Get(f).Bytes())
		}
		return printText(w, call, text)
	}
	b, err := jsonOf(answer)
	if err != nil {
		return err
	}
	text, cut := head(b, maxShown)
	_, err = fmt.Fprintf(w, "%s: %s%s\n", call, text, cut)
	return err
}

func printText(w io.Writer, call, text string) error {
	text, cut := head(text, maxShown)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if text == "" {
		lines = nil
	}
	if _, err := fmt.Fprintf(w, "%s: %d bytes%s\n", call, len(text), cut); err != nil {
		return err
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, printable.Clean([]byte(l))); err != nil {
			return err
		}
	}
	return nil
}

// jsonOf is a message on one line, with all that is no letter as an escape. An answer that is not UTF-8 where it should
// be is told as such.
func jsonOf(m proto.Message) (string, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("answer of the agent: %s", plain(err))
	}
	// The library puts spaces in at random, lest anybody relies on them.
	var compact strings.Builder
	var raw json.RawMessage = b
	b, err = json.Marshal(raw)
	if err != nil {
		return "", err
	}
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		b = b[n:]
		if r == ' ' || unicode.IsPrint(r) {
			compact.WriteRune(r)
			continue
		}
		for _, u := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&compact, `\u%04x`, u)
		}
	}
	return compact.String(), nil
}

// record is a line of the output in JSON.
type record struct {
	Call   string          `json:"call"`
	Answer json.RawMessage `json:"answer,omitempty"`
	Error  *failure        `json:"error,omitempty"`
}

// failure is an error of an agent's, or of the way to it.
type failure struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

func printJSON(w io.Writer, call string, answer proto.Message, err error) error {
	r := record{Call: call}
	if err != nil {
		s, is := status.FromError(err)
		if is {
			r.Error = &failure{s.Code().String(), shown(s.Message(), maxError)}
		} else {
			r.Error = &failure{Message: shown(err.Error(), maxError)}
		}
	} else {
		text, err := jsonOf(answer)
		if err != nil {
			return err
		}
		r.Answer = json.RawMessage(text)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}
