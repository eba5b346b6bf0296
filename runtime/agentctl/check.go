package agentctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/katabuild/katabuild/internal/printable"
)

// Judgement is what an answer is worth.
type Judgement string

// The judgements.
const (
	pass      Judgement = "pass"
	differs   Judgement = "differs"    // it is not what the API promises
	notServed Judgement = "not served" // the agent says that it has no such call
)

// Finding is one thing that an agent was asked.
type Finding struct {
	Call      string    `json:"call"`
	Asked     string    `json:"asked"`
	Answer    string    `json:"answer"`
	Judgement Judgement `json:"judgement"`
}

// step is something to ask an agent, and what an answer has to be like.
type step struct {
	call  string
	asked string
	// request makes it, when it is its turn.
	request func() proto.Message
	// deed is in its place where it takes more than one call.
	deed func(context.Context) error
	// want says what is wrong with an answer, or nothing.
	want func(answer proto.Message, err error) string
	// within bounds the call, where it is one that waits.
	within time.Duration
}

// stepTime bounds a call of a check. An agent that waits for a device gives up before.
const stepTime = time.Minute

// Check asks an agent for everything that the API promises, in an order that makes sense, and judges the answers. It
// makes a sandbox with a container, whose program is the file program: this very one, for the guest's architecture.
// The last step ends the agent. told is called after each step.
func (s *Session) Check(ctx context.Context, program string, told func(Finding)) ([]Finding, error) {
	var out []Finding
	for _, st := range s.steps(program) {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		f := s.take(ctx, st)
		out = append(out, f)
		if told != nil {
			told(f)
		}
	}
	return out, nil
}

// take asks once, and judges.
func (s *Session) take(ctx context.Context, st step) Finding {
	c, known := find(st.call)
	if !known {
		panic("agentctl: no call " + st.call) // the list of steps is ours
	}
	limit := stepTime
	if st.within > 0 {
		limit = st.within
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer := proto.Message(nil)
	var err error
	if st.deed != nil {
		err = st.deed(ctx)
	} else {
		answer, err = s.ask(ctx, c, st.request())
	}
	f := Finding{Call: c.Name, Asked: st.asked, Judgement: pass, Answer: summary(answer, err)}
	switch why := st.want(answer, err); {
	case err != nil && status.Code(err) == codes.Unimplemented:
		f.Judgement = notServed
	case why != "":
		f.Judgement, f.Answer = differs, why+": "+f.Answer
	}
	return f
}

// maxSummary bounds what is told of an answer, in bytes.
const maxSummary = 100

func summary(answer proto.Message, err error) string {
	switch {
	case err != nil:
		st, is := status.FromError(err)
		if !is {
			return shown(err.Error(), maxSummary)
		}
		return shown(st.Code().String()+", "+st.Message(), maxSummary)
	case answer == nil || proto.Size(answer) == 0:
		return "done"
	}
	text, e := jsonOf(answer)
	if e != nil {
		text = e.Error()
	}
	return shown(text, maxSummary)
}

// PrintTable writes findings for people.
func PrintTable(w io.Writer, findings []Finding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CALL\tASKED\tANSWER\tVERDICT")
	count := map[Judgement]int{}
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Call, f.Asked, printable.Clean([]byte(f.Answer)), f.Judgement)
		count[f.Judgement]++
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d pass, %d differ, %d are not served\n", count[pass], count[differs], count[notServed])
	return err
}

// errDiffers says that an agent does not keep the API.
var errDiffers = errors.New("the agent does not keep the API")

// Judge is an error where a finding differs.
func Judge(findings []Finding) error {
	var calls []string
	for _, f := range findings {
		if f.Judgement == differs && !slices.Contains(calls, f.Call) {
			calls = append(calls, f.Call)
		}
	}
	if len(calls) > 0 {
		return fmt.Errorf("%w: %s", errDiffers, strings.Join(calls, ", "))
	}
	return nil
}
