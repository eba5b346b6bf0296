// Package verdict is the document that says, claim by claim, whether a running guest is the guest that was built.
//
// Verify writes it; people, the shim and CI read it. docs/formats/verdict.md owns the bytes.
package verdict

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
	"github.com/katabuild/katabuild/internal/printable"
)

// Version is the only version this package reads and writes.
const Version = 1

// The results.
const (
	Attested = "attested" // every claim is met, those of the running guest among them
	Intact   = "intact"   // every claim about files is met; no report was looked at
	Failed   = "failed"   // at least one claim is not met
	// Unchecked is the result for a guest without a manifest: there is nothing to compare it with, and nobody has.
	Unchecked = "unchecked"
)

// Verdict is the whole answer.
type Verdict struct {
	Version  int           `json:"version"`
	Guest    string        `json:"guest"`
	Manifest digest.Digest `json:"manifest,omitempty"` // empty with Unchecked alone
	Report   digest.Digest `json:"report,omitempty"`
	Result   string        `json:"result"`
	Claims   []Claim       `json:"claims"`
	Template *Template     `json:"template,omitempty"` // nil for a guest that booted
	Pool     *Pool         `json:"pool,omitempty"`     // nil for a guest that was started for its pod
}

// Pool is where a guest waited that was not started for its pod. Its claims are about the guest itself, after it was
// woken.
type Pool struct {
	Ready int64 `json:"ready"` // since when it waited, in seconds since the Epoch
}

// Template is what a guest was restored from instead of booting. Its claims are about the guest itself, after it was
// woken.
type Template struct {
	Digest   digest.Digest `json:"digest"`   // of the template's document
	Made     int64         `json:"made"`     // seconds since the Epoch
	Attested digest.Digest `json:"attested"` // the verdict about the guest that was restored from it first
}

// Claim is one thing the manifest promises.
type Claim struct {
	Name string `json:"name"` // "file vmlinux", "kernel.config"
	Want string `json:"want"`
	Got  string `json:"got"`
	Met  bool   `json:"met"`
}

// Nothing is the verdict about a guest of which nobody says what it must be.
func Nothing(guest string) *Verdict {
	return &Verdict{Version: Version, Guest: guest, Result: Unchecked, Claims: []Claim{}}
}

// Judge sets Result from the claims. withReport says whether a guest's report is among them.
func (v *Verdict) Judge(withReport bool) {
	v.Version = Version
	v.Result = Intact
	if withReport {
		v.Result = Attested
	}
	for _, c := range v.Claims {
		if !c.Met {
			v.Result = Failed
		}
	}
}

// Unmet lists the names of the claims that are not met.
func (v *Verdict) Unmet() []string {
	var names []string
	for _, c := range v.Claims {
		if !c.Met {
			names = append(names, c.Name)
		}
	}
	return names
}

// Encode is the canonical form.
func (v *Verdict) Encode() ([]byte, error) {
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("verdict: %w", err)
	}
	return document.Encode(v)
}

// Decode reads the canonical form and nothing else.
func Decode(data []byte) (*Verdict, error) {
	var v Verdict
	if err := document.Decode("verdict", data, &v); err != nil {
		return nil, err
	}
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("verdict: %w", err)
	}
	return &v, nil
}

func (v *Verdict) check() error {
	if v.Version != Version {
		return fmt.Errorf("version %d, this katabuild reads version %d", v.Version, Version)
	}
	if v.Result == Unchecked {
		if v.Manifest != "" || v.Report != "" || len(v.Claims) > 0 {
			return errors.New("the result is unchecked, but there is something to check")
		}
		return nil
	}
	if v.Manifest == "" {
		return errors.New("no manifest")
	}
	if t := v.Template; t != nil && (t.Digest == "" || t.Made <= 0) {
		return errors.New("a template without a digest or a time")
	}
	if p := v.Pool; p != nil && p.Ready <= 0 {
		return errors.New("a pool without a time")
	}
	if len(v.Claims) == 0 {
		return errors.New("no claims")
	}
	again := *v
	again.Judge(v.Report != "")
	if again.Result != v.Result {
		return fmt.Errorf("result %q does not follow from the claims", v.Result)
	}
	return nil
}

// maxShown bounds what Table shows of a value, in bytes: a kernel's command line is the longest that is of use.
const maxShown = 4096

// Table is the verdict for people: a line a claim, both values where they differ, and the result. Values of a guest,
// which may say anything, are shown as printable.Words.
func (v *Verdict) Table() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, c := range v.Claims {
		if c.Met {
			fmt.Fprintf(w, "met\t%s\t%s\n", c.Name, shorten(c.Want))
			continue
		}
		fmt.Fprintf(w, "NOT MET\t%s\twant %s\n\t\tgot  %s\n", printable.Words(c.Name, maxShown), c.Want,
			orNothing(printable.Words(c.Got, maxShown)))
	}
	_ = w.Flush() // a strings.Builder takes everything
	if t := v.Template; t != nil {
		fmt.Fprintf(&b, "restored from the template sha256:%s… of %s\n", t.Digest.Short(),
			time.Unix(t.Made, 0).UTC().Format(time.RFC3339))
	}
	if p := v.Pool; p != nil {
		fmt.Fprintf(&b, "waited in the pool since %s\n", time.Unix(p.Ready, 0).UTC().Format(time.RFC3339))
	}
	switch v.Result {
	case Unchecked:
		fmt.Fprintf(&b, "%s: %s, as it has no manifest\n", v.Guest, v.Result)
	case Failed:
		fmt.Fprintf(&b, "%s: %s: %s\n", v.Guest, v.Result, printable.Words(strings.Join(v.Unmet(), ", "), maxShown))
	default:
		fmt.Fprintf(&b, "%s: %s, %d claims met\n", v.Guest, v.Result, len(v.Claims))
	}
	return b.String()
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// shorten keeps a met value on one line.
func shorten(s string) string {
	if d, err := digest.Parse(s); err == nil {
		return "sha256:" + d.Short() + "…"
	}
	if r := []rune(s); len(r) > 72 {
		return string(r[:71]) + "…"
	}
	return s
}
