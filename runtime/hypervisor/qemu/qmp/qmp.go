// Package qmp speaks the QEMU Machine Protocol, as the client.
//
// In comes a connection to a QEMU's monitor; out go results and events. It does not know what commands mean. QEMU may
// have been taken over by its guest: lines are bounded, and nothing it says can make the client wait for ever or spend
// without limit. Specification: QEMU docs/interop/qmp-spec.rst.
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
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// maxLine bounds a line, in bytes. The longest that is of use, the answer to query-qmp-schema, has a quarter of it.
const maxLine = 1 << 20

// maxEvents is how many events wait for the reader of Events. The oldest go when there are more.
const maxEvents = 64

// Command is what to execute. Arguments is a JSON object, or nil.
type Command struct {
	Name      string
	Arguments json.RawMessage
	// File goes along where the connection is a UNIX socket, as getfd and its like want it. It may be nil, and stays
	// the caller's.
	File *os.File
}

// Event is something that happened. Data is a JSON object, or nil.
type Event struct {
	Name string
	Data json.RawMessage
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string // GenericError, CommandNotFound, DeviceNotFound, ...
	Desc    string // for people
}

func (e *Error) Error() string { return fmt.Sprintf("qmp %s: %s", e.Command, e.Desc) }

// Client is a connection to a QEMU. Its methods may be called from several goroutines.
type Client struct {
	conn   net.Conn
	events chan Event
	done   chan struct{} // closed when the connection is over

	write sync.Mutex // held while a command is written

	mu      sync.Mutex // guards what follows
	next    int
	waiting map[string]chan<- response
	err     error // why the connection is over; set before done is closed
}

type response struct {
	result json.RawMessage
	refuse *Error
}

// line is any line that QEMU sends.
type line struct {
	Greeting *struct{}       `json:"QMP"` // QEMU's version and capabilities, of which nothing here depends
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	ID       string          `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// New waits for the greeting and negotiates. It owns conn from here on, and closes it when it fails.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, events: make(chan Event, maxEvents), done: make(chan struct{}),
		waiting: map[string]chan<- response{}}
	greeting := make(chan struct{}, 1)
	go c.read(greeting)
	select {
	case <-greeting:
	case <-c.done:
		return nil, fmt.Errorf("qmp greeting: %w", c.why())
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("qmp greeting: %w", context.Cause(ctx)), c.Close())
	}
	if _, err := c.Execute(ctx, Command{Name: "qmp_capabilities"}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Events delivers events in order. When the reader is slow the oldest are dropped. It is never closed; see Done.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection is over.
func (c *Client) Done() <-chan struct{} { return c.done }

// why says why the connection is over: io.EOF when QEMU closed it, net.ErrClosed after Close; nil before.
func (c *Client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. Calling it again is a no-op.
func (c *Client) Close() error {
	c.end(net.ErrClosed)
	return nil
}

func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	_ = c.conn.Close() // nothing is lost: what was to be said has been answered
}

// Execute carries out one command and returns its result. A refusal is an *Error.
func (c *Client) Execute(ctx context.Context, cmd Command) (json.RawMessage, error) {
	answer := make(chan response, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, fmt.Errorf("qmp %s: %w", cmd.Name, c.err)
	}
	c.next++
	id := strconv.Itoa(c.next)
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()

	b, err := json.Marshal(struct {
		Execute   string          `json:"execute"`
		Arguments json.RawMessage `json:"arguments,omitempty"`
		ID        string          `json:"id"`
	}{cmd.Name, cmd.Arguments, id})
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", cmd.Name, err)
	}
	if err := c.send(ctx, append(b, '\n'), cmd.File); err != nil {
		return nil, fmt.Errorf("qmp %s: %w", cmd.Name, err)
	}
	select {
	case r := <-answer:
		if r.refuse != nil {
			r.refuse.Command = cmd.Name
			return nil, r.refuse
		}
		return r.result, nil
	case <-c.done:
		select {
		case r := <-answer: // it came with the last words
			if r.refuse == nil {
				return r.result, nil
			}
		default:
		}
		return nil, fmt.Errorf("qmp %s: %w", cmd.Name, c.why())
	case <-ctx.Done():
		return nil, fmt.Errorf("qmp %s: %w", cmd.Name, context.Cause(ctx))
	}
}

// send writes one line. A QEMU that does not read ends the connection when ctx does: a line cannot be half sent.
func (c *Client) send(ctx context.Context, b []byte, file *os.File) error {
	var rights []byte
	conn, ok := c.conn.(*net.UnixConn)
	if file != nil {
		if !ok {
			return errors.New("a file can only go through a UNIX socket")
		}
		rights = unix.UnixRights(int(file.Fd()))
	}
	c.write.Lock()
	defer c.write.Unlock()
	stop := context.AfterFunc(ctx, func() { c.end(context.Cause(ctx)) })
	var err error
	if rights != nil {
		var n int
		n, _, err = conn.WriteMsgUnix(b, rights, nil)
		b = b[n:]
	}
	if err == nil {
		_, err = c.conn.Write(b)
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// read distributes what QEMU sends until the connection is over.
func (c *Client) read(greeting chan<- struct{}) {
	r := bufio.NewReader(c.conn)
	for {
		b, err := readLine(r)
		if err != nil {
			c.end(err)
			return
		}
		if len(b) == 0 {
			continue
		}
		l, err := parse(b)
		if err != nil {
			c.end(err)
			return
		}
		switch {
		case l.Greeting != nil:
			select {
			case greeting <- struct{}{}:
			default: // a second one is of no interest
			}
		case l.Event != "":
			c.event(Event{l.Event, l.Data})
		default:
			c.answer(l)
		}
	}
}

func (c *Client) event(e Event) {
	for {
		select {
		case c.events <- e:
			return
		default:
		}
		select {
		case <-c.events:
		default:
		}
	}
}

func (c *Client) answer(l *line) {
	c.mu.Lock()
	answer := c.waiting[l.ID]
	delete(c.waiting, l.ID)
	c.mu.Unlock()
	if answer == nil {
		return // nobody waits any more
	}
	r := response{result: l.Return}
	if l.Error != nil {
		r.refuse = &Error{Class: l.Error.Class, Desc: l.Error.Desc}
	}
	answer <- r // has room: there is one answer to an id
}

func parse(b []byte) (*line, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("not a line of QMP: %w", err)
	}
	if l.Greeting == nil && l.Event == "" && l.Return == nil && l.Error == nil {
		return nil, errors.New("not a line of QMP: neither greeting, event nor answer")
	}
	return &l, nil
}

var errTooLong = fmt.Errorf("a line of more than %d bytes", maxLine)

// readLine reads a line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(b)+len(part) > maxLine {
			return nil, errTooLong
		}
		b = append(b, part...)
		switch {
		case err == nil:
			return bytes.TrimSpace(b), nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(b) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}
