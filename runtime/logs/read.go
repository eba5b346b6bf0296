package logs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds: of a line, in bytes, and of all records of which the order is to be found.
const (
	maxLine    = 1 << 20
	maxRecords = 4 << 20
)

// Reader reads lines.
type Reader struct {
	Lenient bool // a record may lack everything but its time
	Strict  bool // what an agent logs must be whole
	Packed  bool // what an agent logs stays in the line of the console
	Others  bool // lines of other programs, such as containerd's own, are passed over
}

// Each reads lines to their end and calls do with each record. A line of which none can be made is a *Lost, with which
// lost is called; what that returns ends it, or nil goes on.
func (x Reader) Each(from io.Reader, name string, do func(Record) error, lost func(*Lost) error) error {
	in := bufio.NewReaderSize(from, 64<<10)
	for n := uint64(1); ; n++ {
		line, long, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w", name, err)
		}
		end := err != nil
		if text := strings.TrimRight(line, "\r\n"); text != "" || long {
			r, why := x.record(text, name, n)
			if long {
				why = fmt.Errorf("it has more than %d bytes", maxLine)
			}
			switch {
			case errors.Is(why, errElse) && x.Others:
			case why != nil:
				err = lost(&Lost{name, n, why.Error()})
			default:
				err = do(r)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// record makes a record of a line, or of what an agent has written in it.
func (x Reader) record(line, name string, n uint64) (Record, error) {
	r, err := parse(line)
	if err == nil && x.Others && r.Source == "" {
		err = errElse // a program may have a field name of its own
	}
	if err != nil && !(errors.Is(err, errElse) && x.Lenient && !x.Others) {
		return r, err
	}
	r.Filename, r.Line = name, n
	if !x.Packed {
		in, ok, err := r.unpack()
		if err != nil && x.Strict {
			return r, err
		}
		if ok {
			r = in
		}
	}
	if why := r.check(x.Lenient); why != "" {
		return r, errors.New(why)
	}
	return r, nil
}

// readLine reads up to the end of a line; of one that is too long, the rest is passed over.
func readLine(in *bufio.Reader) (line string, long bool, err error) {
	var b strings.Builder
	for {
		part, err := in.ReadSlice('\n')
		if b.Len()+len(part) > maxLine {
			long = true
		} else {
			b.Write(part)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return b.String(), long, err
		}
	}
}

// All reads records to the end, behind those that there are.
func (x Reader) All(from io.Reader, name string, want Filter, records []Record, lost func(*Lost) error) ([]Record,
	error) {
	err := x.Each(from, name, func(r Record) error {
		if len(records) == maxRecords {
			return fmt.Errorf("%s: more than %d records: name a sandbox, a level or a time", name, maxRecords)
		}
		if want.Wants(&r) {
			records = append(records, r)
		}
		return nil
	}, lost)
	return records, err
}
