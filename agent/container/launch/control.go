package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/katabuild/katabuild/agent/container/stage"
	"golang.org/x/sys/unix"
)

// Control is the agent's end of the socket to a stage. It is used by one goroutine at a time.
type Control struct {
	conn *net.UnixConn
	file *os.File // the last one received, until TakeFile

	unread bool           // the stage ended before it read all that was written to it
	kept   *stage.Message // what peek has read
	cause  error          // likewise
}

func sockets() (*Control, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket to the stage: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "stage")
	ours := os.NewFile(uintptr(fds[0]), "stage")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket to the stage: %w", err)
	}
	return &Control{conn: conn.(*net.UnixConn)}, theirs, nil
}

// Close gives the socket up, and a file that was not taken. A stage that waits for its plan ends.
func (c *Control) Close() {
	c.conn.Close()
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

// TakeFile is the file that came with the last message that had one, or nil. The caller closes it.
func (c *Control) TakeFile() *os.File {
	f := c.file
	c.file = nil
	return f
}

// Continue lets the stage go on. io.EOF means that the stage is no more.
func (c *Control) Continue() error {
	if _, err := c.conn.Write([]byte{1}); err != nil {
		return io.EOF // the stage is gone, and its end says more
	}
	return nil
}

// stageError is what a stage could not do.
type stageError struct {
	text  string
	errno syscall.Errno
}

func (e *stageError) Error() string { return e.text }
func (e *stageError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// peek waits for a message that Next will return.
func (c *Control) peek(ctx context.Context) error {
	m, err := c.Next(ctx)
	c.kept, c.cause = &m, err
	return err
}

// Next reads a message. io.EOF means that the stage is no more; Failed comes as an error.
func (c *Control) Next(ctx context.Context) (stage.Message, error) {
	if m := c.kept; m != nil {
		c.kept = nil
		return *m, c.cause
	}
	c.conn.SetReadDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, stage.MaxMessage)
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(b, oob)
	if ctx.Err() != nil {
		return stage.Message{}, ctx.Err()
	}
	if err != nil || n == 0 {
		// A socket that is closed with something in it to be read resets the connection. net/unix/af_unix.c,
		// unix_release_sock.
		c.unread = errors.Is(err, unix.ECONNRESET)
		return stage.Message{}, io.EOF
	}
	if messages, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(messages) > 0 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) > 0 {
			unix.SetNonblock(fds[0], true)
			c.file = os.NewFile(uintptr(fds[0]), "terminal")
		}
	}
	var m stage.Message
	if err := json.Unmarshal(b[:n], &m); err != nil {
		return m, fmt.Errorf("message of the stage: %w", err)
	}
	if m.Kind == stage.Failed {
		return m, &stageError{m.Text, syscall.Errno(m.Errno)}
	}
	return m, nil
}
