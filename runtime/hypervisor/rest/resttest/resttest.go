// Package resttest is what strict servers are made of that stand for a hypervisor's API in tests: schemas that refuse
// what they do not have, and requests over UNIX sockets with files.
//
// In come schemas, written as the hypervisor's published description has them, and requests; out come the first
// mistake of a body, or nothing. A real hypervisor may overlook what is refused here.
package resttest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Schemas are the objects and words of an API, by their names there.
//
// An object lists its fields, "NAME TYPE", with an exclamation mark behind the names of those that are needed. A type
// is string, boolean, integer, integer>=N, integer<=N, integer N..M, an object of the Schemas, or one of these behind
// "[]", a list. A text that begins with "enum" lists words.
type Schemas map[string]string

// Check finds the first mistake of a body that is to be of a type.
func (s Schemas) Check(kind string, body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the body")
	}
	return s.check(kind, "body", v)
}

func (s Schemas) check(kind, at string, v any) error {
	if inner, list := strings.CutPrefix(kind, "[]"); list {
		all, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: invalid type, expected a sequence", at)
		}
		for i, x := range all {
			if err := s.check(inner, fmt.Sprintf("%s[%d]", at, i), x); err != nil {
				return err
			}
		}
		return nil
	}
	switch word, bound, _ := strings.Cut(kind, " "); word {
	case "string":
		if _, ok := v.(string); !ok {
			return fmt.Errorf("%s: invalid type, expected a string", at)
		}
		return nil
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: invalid type, expected a boolean", at)
		}
		return nil
	case "integer":
		return checkInteger(bound, at, v)
	}
	text, ok := s[kind]
	if !ok {
		panic("resttest: no schema " + kind)
	}
	if words, is := strings.CutPrefix(text, "enum "); is {
		w, ok := v.(string)
		if !ok || !slices.Contains(strings.Split(words, "|"), w) {
			return fmt.Errorf("%s: unknown variant %v, expected one of %s", at, v, words)
		}
		return nil
	}
	return s.checkObject(text, at, v)
}

func checkInteger(bound, at string, v any) error {
	n, ok := v.(json.Number)
	if !ok {
		return fmt.Errorf("%s: invalid type, expected an integer", at)
	}
	i, err := n.Int64()
	if err != nil {
		return fmt.Errorf("%s: invalid value %s, expected an integer", at, n)
	}
	if bound == "" {
		bound = "0.." // all that are used are counts
	}
	var low, high int64 = 0, 1<<63 - 1
	from, to, _ := strings.Cut(bound, "..")
	_, err = fmt.Sscan(from, &low)
	if to != "" {
		_, e := fmt.Sscan(to, &high)
		err = errors.Join(err, e)
	}
	if err != nil {
		panic("resttest: bound " + bound)
	}
	if i < low || i > high {
		return fmt.Errorf("%s: %d is out of range %s", at, i, bound)
	}
	return nil
}

func (s Schemas) checkObject(text, at string, v any) error {
	object, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: invalid type, expected an object", at)
	}
	known := map[string]string{}
	for f := range strings.SplitSeq(text, ",") {
		name, kind, ok := strings.Cut(strings.TrimSpace(f), " ")
		if !ok {
			panic("resttest: field " + f)
		}
		bare := strings.TrimSuffix(name, "!")
		known[bare] = kind
		if _, there := object[bare]; bare != name && !there {
			return fmt.Errorf("%s: missing field `%s`", at, bare)
		}
	}
	names := make([]string, 0, len(object))
	for n := range object {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		kind, ok := known[n]
		if !ok {
			return fmt.Errorf("%s: unknown field `%s`", at, n)
		}
		if err := s.check(kind, at+"."+n, object[n]); err != nil {
			return err
		}
	}
	return nil
}

// Request is one request with the files that came along.
type Request struct {
	Method, Path string
	Body         []byte
	Files        []*os.File
}

// Answer is what is said to it.
type Answer struct {
	Status int
	Body   []byte // may be empty
}

// Serve answers the requests at a listener, one after the other, until it is closed. Files are closed for the handler
// once it returns.
func Serve(l *net.UnixListener, answer func(Request) Answer) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		_ = serveOne(c, answer) // the client is gone
		_ = c.Close()
	}
}

// maxFiles is how many files go along with a request.
const maxFiles = 16

func serveOne(c *net.UnixConn, answer func(Request) Answer) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return err
	}
	first, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := c.ReadMsgUnix(first, oob)
	if err != nil {
		return err
	}
	var r Request
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			f := os.NewFile(uintptr(fd), "received")
			defer f.Close()
			r.Files = append(r.Files, f)
		}
	}
	q, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(first[:n]), c)))
	if err != nil {
		return err
	}
	r.Method, r.Path = q.Method, q.URL.Path
	if r.Body, err = io.ReadAll(q.Body); err != nil {
		return err
	}
	a := answer(r)
	response := http.Response{StatusCode: a.Status, ProtoMajor: 1, ProtoMinor: 1, Request: q,
		Body: io.NopCloser(bytes.NewReader(a.Body)), ContentLength: int64(len(a.Body)), Close: true}
	return response.Write(c)
}

// Program makes a link in a folder by which the test's own program has another name, and returns its path.
func Program(t testing.TB, dir, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}
