package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}` + "\r\n"

// fake is a QEMU that greets and then answers each command with what f makes of it. An empty answer is none.
func fake(t *testing.T, f func(name, id string) string) *Client {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { b.Close() })
	go func() {
		io.WriteString(b, greeting)
		r := bufio.NewScanner(b)
		for r.Scan() {
			var cmd struct{ Execute, ID string }
			if err := json.Unmarshal(r.Bytes(), &cmd); err != nil {
				t.Errorf("client sent %q", r.Text())
				return
			}
			if cmd.Execute == "qmp_capabilities" {
				fmt.Fprintf(b, `{"return": {}, "id": %q}`+"\r\n", cmd.ID)
				continue
			}
			io.WriteString(b, f(cmd.Execute, cmd.ID))
		}
	}()
	c, err := New(ctx(t), a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	t.Cleanup(cancel)
	return c
}

func TestCommandsAndEvents(t *testing.T) {
	c := fake(t, func(name, id string) string {
		if name == "bad" {
			return fmt.Sprintf(`{"id": %q, "error": {"class": "CommandNotFound", "desc": "no bad"}}`+"\n", id)
		}
		return `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}` + "\n" +
			`{"return": {"for": "nobody"}, "id": "17"}` + "\n" +
			fmt.Sprintf(`{"id": %q, "return": {"status": "running"}}`+"\n", id)
	})
	got, err := c.Execute(ctx(t), Command{Name: "query-status"})
	if err != nil || string(got) != `{"status": "running"}` {
		t.Errorf("query-status: %s, %v", got, err)
	}
	if e := <-c.Events(); e.Name != "STOP" {
		t.Errorf("event %v", e)
	}
	_, err = c.Execute(ctx(t), Command{Name: "bad", Arguments: json.RawMessage(`{"a":1}`)})
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" || refusal.Command != "bad" {
		t.Errorf("bad: %v", err)
	}
}

func TestSlowReaderLosesTheOldestEvents(t *testing.T) {
	c := fake(t, func(_, id string) string {
		var b strings.Builder
		for i := range maxEvents + 10 {
			fmt.Fprintf(&b, `{"event": "E%d"}`+"\n", i)
		}
		fmt.Fprintf(&b, `{"id": %q, "return": {}}`+"\n", id)
		return b.String()
	})
	if _, err := c.Execute(ctx(t), Command{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if e := <-c.Events(); e.Name != "E10" {
		t.Errorf("first event is %s, want E10", e.Name)
	}
}

func TestEndsOfTheConnection(t *testing.T) {
	for name, said := range map[string]string{
		"nothing":        "",
		"no JSON":        "hello\n",
		"an empty value": "{}\n",
		"half a line":    `{"QMP"`,
		"a long line":    strings.Repeat("x", maxLine+1) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			go func() { io.WriteString(b, said); b.Close() }()
			if _, err := New(ctx(t), a); err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("QEMU exits while a command runs", func(t *testing.T) {
		a, b := net.Pipe()
		go func() {
			io.WriteString(b, greeting)
			r := bufio.NewReader(b)
			r.ReadString('\n')
			io.WriteString(b, `{"return": {}, "id": "1"}`+"\n")
			r.ReadString('\n')
			b.Close()
		}()
		c, err := New(ctx(t), a)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Execute(ctx(t), Command{Name: "quit"}); !errors.Is(err, io.EOF) {
			t.Errorf("%v, want EOF", err)
		}
		if _, err := c.Execute(ctx(t), Command{Name: "quit"}); !errors.Is(err, io.EOF) {
			t.Errorf("afterwards: %v, want EOF", err)
		}
	})
	t.Run("time is up", func(t *testing.T) {
		c := fake(t, func(string, string) string { return "" })
		short, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		if _, err := c.Execute(short, Command{Name: "x"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the context's error", err)
		}
	})
	t.Run("time is up before the greeting", func(t *testing.T) {
		a, _ := net.Pipe()
		short, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		if _, err := New(short, a); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the context's error", err)
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}, "timestamp": {"seconds": 1, "microseconds": 2}}` + "\n"))
	f.Add([]byte(`{"return": {}, "id": "1"}` + "\r\n" + `{"error": {"class": "GenericError", "desc": "x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		for {
			b, err := readLine(r)
			if err != nil {
				return
			}
			if l, err := parse(b); err == nil && l == nil {
				t.Fatal("neither a line nor an error")
			}
		}
	})
}
