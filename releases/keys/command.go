package keys

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Bounds of a command that signs: how long it may take, for a token may want a finger, and how many bytes it may say.
const (
	commandTime = 2 * time.Minute
	commandSays = 16 << 10
)

type command struct {
	argv   []string
	said   io.Writer // what it says to people
	public Public
}

// FromCommand signs with a key that a command has; docs/formats/signer.md is what it must do. line is the program and
// its arguments, separated by spaces. What it says on standard error goes to said.
func FromCommand(ctx context.Context, line string, said io.Writer) (Signer, error) {
	c := &command{argv: strings.Fields(line), said: said}
	if len(c.argv) == 0 {
		return nil, errors.New("the command that signs is empty")
	}
	out, err := c.run(ctx, "public-key", nil)
	if err != nil {
		return nil, err
	}
	if c.public, err = ParsePublic(out); err != nil {
		return nil, fmt.Errorf("%s public-key: %w", line, err)
	}
	return c, nil
}

func (c *command) Public() Public { return c.public }

// Sign has the command sign, and checks what it says.
func (c *command) Sign(ctx context.Context, message []byte) ([]byte, error) {
	out, err := c.run(ctx, "sign", message)
	if err != nil {
		return nil, err
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSuffix(string(out), "\n"))
	if err != nil {
		return nil, fmt.Errorf("%s sign: want one line of Base64: %w", strings.Join(c.argv, " "), err)
	}
	if !c.public.Verify(message, sig) {
		return nil, fmt.Errorf("%s sign: what it wrote is no signature of its key %s over these bytes",
			strings.Join(c.argv, " "), c.public.ID)
	}
	return sig, nil
}

// run calls the command with one word more, and returns what it wrote.
func (c *command) run(ctx context.Context, word string, in []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.argv[0], append(c.argv[1:len(c.argv):len(c.argv)], word)...)
	out := &limited{left: commandSays}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, c.said
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if out.left < 0 {
		err = fmt.Errorf("it writes more than %d bytes", commandSays)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", strings.Join(c.argv, " "), word, errors.Join(context.Cause(ctx), err))
	}
	return out.data, nil
}

// limited keeps so many bytes and refuses more. It has no other way in than Write.
type limited struct {
	data []byte
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, io.ErrShortWrite
	}
	l.data = append(l.data, p...)
	return len(p), nil
}
