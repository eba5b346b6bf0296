// Package inside is the program of a container that agentctl makes: it echoes, ends, holds on, or says what there is.
//
// It is copied into guests, so it is small, and needs nothing beside it.
package inside

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Word has a program run Run, with the arguments behind it.
const Word = "inside"

// ExitCode is the end of Run with a code.
type ExitCode int

func (e ExitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// holdTime is how long a process stays that is to be ended by somebody else.
const holdTime = time.Hour

// Run does what its arguments say: echo has each line of in on out, and a word on errs;
// exit N ends so; hold waits to be killed; show PATH... says what there is.
func Run(args []string, in io.Reader, out, errs io.Writer) error {
	if len(args) == 0 {
		return errors.New("inside: want echo, exit, hold or show")
	}
	switch args[0] {
	case "echo":
		if _, err := fmt.Fprintln(errs, Complaint); err != nil {
			return err
		}
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			if _, err := fmt.Fprintln(out, lines.Text()); err != nil {
				return err
			}
		}
		return lines.Err()
	case "exit":
		if len(args) != 2 {
			return errors.New("inside: exit wants a number")
		}
		n, err := strconv.ParseUint(args[1], 10, 8)
		if err == nil && n != 0 {
			err = ExitCode(n)
		}
		return err
	case "hold":
		time.Sleep(holdTime)
		return nil
	case "show":
		for _, p := range args[1:] {
			if err := show(out, p); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("inside: unknown word %q", args[0])
}

// Complaint is what echo says on its standard error.
const Complaint = "said on standard error"

// show writes a line about a path.
func show(w io.Writer, path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		_, err := fmt.Fprintf(w, "%s: %v\n", path, err)
		return err
	}
	what := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		what += " -> " + target
	case unix.S_IFREG:
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		what += fmt.Sprintf(" %d sha256:%x", st.Size, h.Sum(nil))
	}
	_, err := fmt.Fprintf(w, "%s: %s\n", path, what)
	return err
}
