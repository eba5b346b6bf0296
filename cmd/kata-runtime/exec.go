package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/pty"
	"github.com/katabuild/katabuild/internal/usage"
)

// leave is the key that ends an interactive session, whatever the guest does: Ctrl-].
const leave = 0x1d

func isConnectionReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

func isConnectionRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func (a *app) execCmd() *cobra.Command {
	var port uint32
	c := &cobra.Command{
		Use: "exec SANDBOX [-- COMMAND [ARGUMENT...]]", Short: "open a shell in a pod's guest, outside its containers",
		Long: `exec connects to the debug console of a pod's guest: a shell as root, beside the containers. The pod
must have been started with debug_console_enabled = true in [agent.kata].

Without a command it is interactive: what you type goes to the shell, and Ctrl-] leaves. When standard input is no
terminal, its lines are typed, and "exit" behind them. With a command that one is run, its output comes without the
shell's, with line feeds for the terminal's line ends, and its exit code is that of kata-runtime; both streams come
as one, and standard input is not read.`,
		Example: `  kata-runtime exec POD
  kata-runtime exec POD -- dmesg`,
	}
	c.Flags().Uint32Var(&port, "kata-debug-port", agentapi.DebugConsolePort, "vsock `port` of the debug console")
	c.Args = func(c *cobra.Command, args []string) error {
		n := c.ArgsLenAtDash()
		if n < 0 {
			n = len(args)
		}
		switch {
		case n != 1:
			return fmt.Errorf("want one sandbox, and a command behind --; got %d words", n)
		case c.ArgsLenAtDash() == len(args):
			return errors.New("there is no command behind --")
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		line, nonce := "", rand.Text()
		if command := args[1:]; len(command) > 0 {
			var err error
			if line, err = commandLine(nonce, command); err != nil {
				return &usage.Error{Err: err}
			}
		}
		// Whoever answers on the port of a console that nobody has turned on is not the agent.
		if r, err := a.record(args[0]); err == nil && consoleOff(r.Command, port) {
			return &refusedError{id: args[0], port: port, console: true}
		}
		conn, err := a.dial(c.Context(), args[0], port)
		if e, ok := errors.AsType[*refusedError](err); ok {
			e.console = true
		}
		if err != nil {
			return err
		}
		defer conn.Close() // whatever was said has been read
		stop := context.AfterFunc(c.Context(), func() { _ = conn.Close() })
		defer stop()
		if line == "" {
			err = a.interact(conn)
		} else {
			err = a.command(conn, line, nonce)
		}
		if c.Context().Err() != nil {
			return errors.New("exec: interrupted")
		}
		return err
	}
	return c
}

// consoleOff says whether QEMU's command line gives the guest a kernel command line without the debug console on a
// port.
func consoleOff(command []string, port uint32) bool {
	i := slices.Index(command, "-append")
	if i < 0 || i+1 >= len(command) {
		return false // nobody knows
	}
	on, at := false, uint64(0)
	for w := range strings.FieldsSeq(command[i+1]) {
		name, value, has := strings.Cut(w, "=")
		switch name {
		case "agent.debug_console":
			on = !has || value == "1" || value == "true"
		case "agent.debug_console_vport":
			at, _ = strconv.ParseUint(value, 10, 32)
		}
	}
	return !on || at != uint64(port)
}

// interact joins the streams and the shell until one of them ends.
func (a *app) interact(c net.Conn) error {
	f, isFile := a.in.(*os.File)
	restore := func() error { return nil }
	raw := false
	if isFile {
		var err error
		if restore, raw, err = pty.MakeRaw(f); err != nil {
			return err
		}
	}
	left := make(chan error, 1)
	go func() { left <- a.typeAll(c, raw) }() // a read of the terminal cannot be ended; the process does it
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(a.out, c)
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case err = <-left:
		if err == nil && !raw {
			err = <-ended // the shell answers what was typed, and ends
		}
	}
	if isConnectionReset(err) || errors.Is(err, errLeft) {
		err = nil
	}
	err = errors.Join(err, restore())
	if raw {
		fmt.Fprintln(a.err)
	}
	return err
}

var errLeft = errors.New("left by the key")

// typeAll types everything that is read.
func (a *app) typeAll(c io.Writer, raw bool) error {
	if !raw {
		// A shell that has ended reads no more: what it said counts.
		if _, err := io.Copy(c, a.in); err != nil && !isBroken(err) {
			return fmt.Errorf("send to the guest: %w", err)
		}
		// Not the end of file: before the shell has set up its terminal that key does something else.
		if _, err := io.WriteString(c, "\nexit\n"); err != nil && !isBroken(err) {
			return fmt.Errorf("send to the guest: %w", err)
		}
		return nil
	}
	b := make([]byte, 4096)
	for {
		n, err := a.in.Read(b)
		typed, key := b[:n], -1
		if key = bytes.IndexByte(typed, leave); key >= 0 {
			typed = typed[:key]
		}
		if _, err := c.Write(typed); err != nil {
			return fmt.Errorf("send to the guest: %w", err)
		}
		switch {
		case key >= 0:
			return errLeft
		case errors.Is(err, io.EOF):
			return errLeft // the terminal is gone
		case err != nil:
			return fmt.Errorf("read what is typed: %w", err)
		}
	}
}

func isBroken(err error) bool { return errors.Is(err, syscall.EPIPE) || isConnectionReset(err) }

// maxCommand is what a terminal keeps of a line that nobody has read yet, in bytes, less the line feed. termios(3),
// canonical mode.
const maxCommand = 4095

// commandLine is what is typed to run a command: a mark before its output and one behind, with its exit code. The
// terminal echoes what is typed, so the marks are written in two halves here.
func commandLine(nonce string, command []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "echo %s''b;", nonce)
	for _, w := range command {
		for _, r := range w {
			if r < ' ' && r != '\n' || r == 0x7f {
				return "", fmt.Errorf("command: %q holds a control character, which a terminal would act on", w)
			}
		}
		b.WriteString(" '" + strings.ReplaceAll(w, "'", `'\''`) + "'")
	}
	fmt.Fprintf(&b, "; echo %s''e$?; exit\n", nonce)
	if b.Len() > maxCommand {
		return "", fmt.Errorf("command: %d bytes are too many to type, %d are possible", b.Len(), maxCommand)
	}
	return b.String(), nil
}

// command runs a command line and returns its exit code as an error, unless it is 0.
func (a *app) command(c net.Conn, line, nonce string) error {
	if _, err := io.WriteString(c, line); err != nil {
		return fmt.Errorf("send to the guest: %w", err)
	}
	code, err := commandOutput(a.out, c, nonce)
	switch {
	case err != nil:
		return err
	case code != 0:
		return exitCode(code)
	}
	return nil
}

// commandOutput copies what is between the marks, with line feeds instead of the terminal's line ends, and returns the
// exit code.
func commandOutput(w io.Writer, r io.Reader, nonce string) (int, error) {
	begin, end := []byte(nonce+"b\r\n"), []byte(nonce+"e")
	var held []byte // not looked at yet
	running := false
	b := make([]byte, 32<<10)
	for {
		n, err := r.Read(b)
		held = append(held, b[:n]...)
		if !running {
			if i := bytes.Index(held, begin); i >= 0 {
				running, held = true, held[i+len(begin):]
			} else {
				held = held[max(0, len(held)-len(begin)):]
			}
		}
		if running {
			code, rest, found, werr := passOutput(w, held, end)
			if werr != nil || found {
				return code, werr
			}
			held = rest
		}
		if err != nil {
			if errors.Is(err, io.EOF) || isConnectionReset(err) {
				err = io.ErrUnexpectedEOF
			}
			if running { // for people: the last words may say why
				if _, werr := w.Write(held); werr != nil {
					return 0, werr
				}
			}
			return 0, fmt.Errorf("the shell ended before the command was done: %w", err)
		}
	}
}

// maxCode is the longest exit code, in bytes.
const maxCode = len("255")

// passOutput writes what is certainly output and returns the rest. found says that the end mark is there with its code.
func passOutput(w io.Writer, held, end []byte) (code int, rest []byte, found bool, err error) {
	i := bytes.Index(held, end)
	out := i
	if i < 0 {
		out = max(0, len(held)-len(end)) // a mark may have begun, and a line end
	}
	// A line end that may be cut in two waits.
	if out > 0 && held[out-1] == '\r' && i < 0 {
		out--
	}
	if _, err := w.Write(bytes.ReplaceAll(held[:out], []byte("\r\n"), []byte("\n"))); err != nil {
		return 0, nil, false, err
	}
	rest = held[out:]
	if i < 0 {
		return 0, rest, false, nil
	}
	digits, _, whole := bytes.Cut(rest[len(end):], []byte("\r\n"))
	if !whole && len(digits) < maxCode+len("\r\n") {
		return 0, rest, false, nil
	}
	n, err := strconv.ParseUint(string(digits), 10, 8)
	if err != nil || !whole || len(digits) > maxCode {
		return 0, nil, true, fmt.Errorf("the shell says %q instead of an exit code", digits)
	}
	return int(n), nil, true, nil
}
