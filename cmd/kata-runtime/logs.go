package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/install/distribution"
	"github.com/katabuild/katabuild/runtime/logs"
)

// logsFlags are those of kata-runtime logs. The long names, and -c, -q, -s and -o, are Kata Containers' own.
type logsFlags struct {
	reader logs.Reader
	want   logs.Filter

	format      string
	output      string
	formats     bool
	check       bool
	quiet       bool
	debug       bool
	noEmptyFile bool
	noEmpty     bool

	follow bool
	units  []string
	since  string
}

const logsLong = `logs reads what runtimes, ours and Kata Containers', and the agents of their guests have logged,
puts it in order of time, and prints it for people or for programs. The line for people has the time, how long after
the line before that was, the level, who says it, which pod, and what. Nothing in it makes a terminal do anything.

Without a FILE the journal of the container runtime is read, in which lines of other programs are passed over. A FILE
has one line a record, in logfmt, such as "journalctl -o cat -u containerd" prints; - is standard input. There each line
must be a record with level, name, source, pid, time and msg, unless --ignore-missing-fields. What an agent has written
on the console of its guest becomes a record of its own.`

func (a *app) logsCmd() *cobra.Command {
	var f logsFlags
	c := &cobra.Command{
		Use: "logs [FILE...]", Aliases: []string{"log-parser"}, Args: cobra.ArbitraryArgs,
		Short: "print what runtimes and agents have logged, in order of time",
		Long:  logsLong,
		Example: `  kata-runtime logs --since -10min
  kata-runtime logs --sandbox 2fa50251 --level warning
  kata-runtime logs --follow
  kata-runtime logs --check-only --ignore-missing-fields kata.log
  journalctl -o cat -u containerd | kata-runtime logs --output-format json --ignore-missing-fields -`,
	}
	fl := c.Flags()
	fl.StringVar(&f.want.Sandbox, "sandbox", "", "only of the pod whose `ID` begins so")
	fl.StringVar(&f.want.Container, "container", "", "only of the container whose `ID` begins so")
	fl.StringVar(&f.want.Level, "level", "", "only this level and more serious ones: "+
		strings.Join(logs.Levels(), ", "))
	fl.BoolVar(&f.follow, "follow", false, "go on as lines come, as text or json (an object a line)")
	fl.StringArrayVar(&f.units, "unit", nil, "`unit` of systemd whose journal is read (repeatable; default: those of "+
		"containerd, CRI-O and distributions of Kubernetes)")
	fl.StringVar(&f.since, "since", "", "how far back the journal is read, a `time` as journalctl takes it")
	fl.StringVar(&f.format, "output-format", "text", "how it is printed: "+strings.Join(logs.Formats(), ", "))
	fl.StringVarP(&f.output, "output-file", "o", "", "print to this `file`")
	fl.BoolVar(&f.formats, "list-output-formats", false, "print the formats, and end")
	fl.BoolVarP(&f.check, "check-only", "c", false, "print nothing but what is wrong")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing of lines that are passed over")
	fl.BoolVarP(&f.reader.Strict, "strict", "s", false, "a record of an agent that is not whole is an error")
	fl.BoolVar(&f.reader.Lenient, "ignore-missing-fields", false, "a record of a FILE needs no more than its time; "+
		"what is no record is passed over")
	fl.BoolVar(&f.reader.Packed, "no-agent-unpack", false, "leave what agents log in the lines of the console")
	fl.BoolVar(&f.noEmptyFile, "error-if-file-empty", false, "a FILE without a record is an error")
	fl.BoolVar(&f.noEmpty, "error-if-no-records", false, "no record at all is an error")
	fl.BoolVar(&f.debug, "debug", false, "name each line that is passed over")
	c.RunE = func(c *cobra.Command, args []string) error {
		if f.formats {
			_, err := fmt.Fprintln(a.out, strings.Join(logs.Formats(), "\n"))
			return err
		}
		if err := f.sensible(args); err != nil {
			return &usage.Error{Err: err}
		}
		return a.logs(c.Context(), &f, args)
	}
	return c
}

// sensible refuses what makes no sense.
func (f *logsFlags) sensible(args []string) error {
	switch {
	case !slices.Contains(logs.Formats(), f.format):
		return fmt.Errorf("--output-format %s: want one of %s", f.format, strings.Join(logs.Formats(), ", "))
	case f.want.Level != "" && !slices.Contains(logs.Levels(), f.want.Level):
		return fmt.Errorf("--level %s: want one of %s", f.want.Level, strings.Join(logs.Levels(), ", "))
	case len(args) > 0 && (f.since != "" || len(f.units) > 0):
		return errors.New("--since and --unit are about the journal, which is not read where files are named")
	case f.follow && f.format != "text" && f.format != "json":
		return fmt.Errorf("--follow goes with text and json: %s has an end", f.format)
	case f.follow && len(args) > 0 && !slices.Equal(args, []string{"-"}):
		return errors.New("--follow reads the journal or standard input: tail -F FILE | kata-runtime logs --follow -")
	}
	return nil
}

// logs reads, and prints.
func (a *app) logs(ctx context.Context, f *logsFlags, args []string) (err error) {
	out := a.out
	if f.output != "" {
		file, err := os.OpenFile(f.output, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // what is logged is not for all
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	var passed int
	lost := func(l *logs.Lost) error {
		if len(args) > 0 && !f.reader.Lenient || f.reader.Strict {
			return fmt.Errorf("%w; --ignore-missing-fields passes over what is no record", l)
		}
		if passed++; f.debug {
			fmt.Fprintf(a.err, "passed over: %v\n", l)
		}
		return nil
	}
	if f.follow {
		s := &logs.Stream{W: out, JSON: f.format == "json"}
		return f.read(ctx, a.in, args, func(from io.Reader, name string, x logs.Reader) error {
			return x.Each(from, name, func(r logs.Record) error {
				if f.check || !f.want.Wants(&r) {
					return nil
				}
				return s.Write(r)
			}, lost)
		})
	}
	var records []logs.Record
	err = f.read(ctx, a.in, args, func(from io.Reader, name string, x logs.Reader) error {
		before := len(records)
		var err error
		records, err = x.All(from, name, f.want, records, lost)
		if err == nil && f.noEmptyFile && len(records) == before {
			err = fmt.Errorf("%s: no record", name)
		}
		return err
	})
	if err != nil {
		return err
	}
	if passed > 0 && !f.quiet {
		fmt.Fprintf(a.err, "%d lines are no records and are passed over; --debug names them\n", passed)
	}
	if f.noEmpty && len(records) == 0 {
		return errors.New("no record")
	}
	if f.check {
		return nil
	}
	logs.Order(records)
	w := bufio.NewWriter(out)
	return errors.Join(logs.Write(w, f.format, records), w.Flush())
}

// read has each file read, or the journal.
func (f *logsFlags) read(ctx context.Context, in io.Reader, args []string,
	do func(from io.Reader, name string, x logs.Reader) error) error {
	for _, name := range args {
		if name == "-" {
			if err := do(in, name, f.reader); err != nil {
				return err
			}
			continue
		}
		abs, err := filepath.Abs(name)
		if err != nil {
			return err
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(do(file, abs, f.reader), file.Close()); err != nil {
			return err
		}
	}
	if len(args) > 0 {
		return nil
	}
	x := f.reader
	x.Lenient, x.Others = true, true
	return f.journal(ctx, func(from io.Reader) error { return do(from, "journal", x) })
}

// journal runs journalctl, which knows where the journal lies.
func (f *logsFlags) journal(ctx context.Context, do func(io.Reader) error) error {
	argv := []string{"--quiet", "--all", "--no-pager", "--output=cat"}
	units := f.units
	if len(units) == 0 {
		for _, name := range distribution.Names() {
			units = append(units, distribution.Units(name)...)
		}
		slices.Sort(units)
		units = slices.Compact(units)
	}
	for _, u := range units {
		argv = append(argv, "--unit="+u)
	}
	if f.since != "" {
		argv = append(argv, "--since="+f.since)
	}
	if f.follow {
		argv = append(argv, "--follow")
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, "journalctl", argv...)
	var said strings.Builder
	cmd.Stderr = &said
	from, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("journal: %w; name a file of lines instead, such as k3s's "+
			"/var/lib/rancher/k3s/agent/containerd/containerd.log", err)
	}
	if err := do(from); err != nil {
		stop()
		_ = cmd.Wait() // it was ended
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("journal: journalctl: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}
