package verdict_test

import (
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/documenttest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/verdict"
)

func sample(met bool) *verdict.Verdict {
	v := &verdict.Verdict{Guest: "sample", Manifest: digest.Of(nil), Report: digest.Of(nil), Claims: []verdict.Claim{
		{Name: "kernel.release", Want: "6.12", Got: "6.12", Met: true},
		{Name: "agent.digest", Want: string(digest.Of([]byte("a"))), Got: string(digest.Of([]byte("b"))), Met: met},
	}}
	v.Judge(true)
	return v
}

func TestTheVerdictKeepsItsForm(t *testing.T) {
	data, err := sample(false).Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "verdict.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := verdict.Decode(b); return err })
	golden.Check(t, "table.txt", []byte(sample(false).Table()))
}

func TestAResultMustFollowFromItsClaims(t *testing.T) {
	v := sample(false)
	v.Result = verdict.Attested
	if _, err := v.Encode(); err == nil {
		t.Error("an unmet claim and the result attested go together")
	}
	if v := sample(true); v.Result != verdict.Attested || !strings.Contains(v.Table(), "attested, 2 claims met") {
		t.Errorf("result %s:\n%s", v.Result, v.Table())
	}
	v = sample(true)
	v.Report = ""
	v.Judge(false)
	if v.Result != verdict.Intact {
		t.Errorf("without a report the result is %s", v.Result)
	}
}

func TestOfAGuestWithoutAManifestNothingIsSaid(t *testing.T) {
	v := verdict.Nothing("kata.img")
	data, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "unchecked.json", data)
	documenttest.Strict(t, data, func(b []byte) error { _, err := verdict.Decode(b); return err })
	if v.Table() != "kata.img: unchecked, as it has no manifest\n" {
		t.Errorf("%q", v.Table())
	}
	for name, change := range map[string]func(*verdict.Verdict){
		"a manifest":          func(v *verdict.Verdict) { v.Manifest = digest.Of(nil) },
		"a report":            func(v *verdict.Verdict) { v.Report = digest.Of(nil) },
		"a claim":             func(v *verdict.Verdict) { v.Claims = sample(true).Claims },
		"the result attested": func(v *verdict.Verdict) { v.Claims, v.Result = sample(true).Claims, verdict.Intact },
	} {
		v := verdict.Nothing("kata.img")
		change(v)
		if _, err := v.Encode(); err == nil {
			t.Errorf("it is a verdict with %s", name)
		}
	}
}

func TestAGuestsValuesDoNothingToATerminal(t *testing.T) {
	v := sample(false)
	for i := range v.Claims {
		v.Claims[i].Met = false
		v.Claims[i].Name += "\x1b[2J"
		v.Claims[i].Got = "\x1b]0;title\x07a\nb\rmet everything \u202e" + strings.Repeat("x", 1<<20)
	}
	table := v.Table()
	if strings.ContainsAny(table, "\x1b\x07\r\u202e") || !strings.Contains(table, "got  a b met everything xxx") {
		t.Errorf("%.300q", table)
	}
	if most := 6000 * (len(v.Claims) + 1); len(table) > most {
		t.Errorf("%d bytes, want at most %d", len(table), most)
	}
}

func FuzzDecode(f *testing.F) {
	data, err := sample(false).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := verdict.Decode(data); err == nil && v.Result == verdict.Attested && len(v.Unmet()) > 0 {
			t.Error("attested with unmet claims")
		}
	})
}
