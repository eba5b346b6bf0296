package rules

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
)

func TestBothLanguages(t *testing.T) {
	p := &Policy{Comment: []string{"Two\nlines."}, Rules: []Rule{
		{Call: "StartContainer", Comment: "Any."},
		{Call: "ReadStdout"}, {Call: "ReadStderr"},
		{Call: "UpdateRoutes", Open: true, Conditions: []Condition{Matches("routes.Routes[].device", "eth[0-9]")}},
		{Call: "CreateContainer", Conditions: []Condition{Any("exec_id"), Is("OCI.Root.Readonly", Bool(true)),
			Is("OCI.Process.Args", List(Text(`a"b`), Like("c|d"))), Is("OCI.Process.Env", List(Text("A=b"))),
			EachMatches("OCI.Annotations", "a=.*"),
			Among("OCI.Process.User.AdditionalGids", Number(uint32(7)), Number(uint32(8))),
			Among("OCI.Linux.Devices"),
			Among("OCI.Mounts", Object(Field{"type", Text("proc")}, Field{"source", Value{}}),
				Object(Field{"options", List(Like("x"))}))}},
	}}
	text, err := p.Text()
	if err != nil {
		t.Fatal(err)
	}
	rego, err := p.Rego()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "small.policy", []byte(text))
	golden.Check(t, "small.rego", []byte(rego))
}

func TestWhatNoAgentReadsIsRefused(t *testing.T) {
	long := &Policy{Rules: []Rule{{Call: "StartContainer", Conditions: []Condition{
		Is("container_id", Text(strings.Repeat("x", maxLine)))}}}}
	if _, err := long.Text(); err == nil || !strings.Contains(err.Error(), "at most 65536") {
		t.Errorf("a long line: %v", err)
	}
	if _, err := long.Rego(); err == nil {
		t.Error("a long line of Rego is written")
	}
	for _, r := range []Rule{{Call: "Nothing"}, {Call: "StartContainer", Conditions: []Condition{Any("x")}}} {
		if _, err := (&Policy{Rules: []Rule{r}}).Rego(); err == nil {
			t.Errorf("%+v is written", r)
		}
	}
}
