package bugreport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// secretName is what the name of a secret has in it. Names of numbers that tell about secrets are no exception:
// what is taken out too much can be asked for.
const secretName = `pass(?:word|wd|phrase)|secret|token|credential|api[-_]?key|access[-_]?key|private[-_]?key|` +
	`signing[-_]?key|auth[-_]?key|cookie|dockerconfigjson`

// kind is one form in which secrets stand in text. The first group stays, and what is behind it goes.
type kind struct {
	name string
	re   *regexp.Regexp
}

// quoted is a quotation mark, as it is or within another text of JSON.
const quoted = `\\*["']`

// value is what a secret's name has behind it.
const value = `(?:\\*"[^"\\]*|\\*'[^'\\]*|[^\s"',;}\\]+)`

// blocks are the kinds that go over lines.
var blocks = []kind{
	{"private key", regexp.MustCompile(`()-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)` +
		`(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|$)`)},
	// {"name": "DB_PASSWORD", "value": "x"}, as pods name variables, or the same in YAML
	{"variable", regexp.MustCompile(`((?i:\bname(?:` + quoted + `)?\s*:\s*(?:` + quoted + `)?[^"'\\\s]*(?:` +
		secretName + `)[^"'\\\s]*(?:` + quoted + `)?\s*,?\s*(?:` + quoted + `)?value(?:` + quoted + `)?\s*:\s*))` +
		value)},
}

// kinds are looked for in each line, one after the other: what has a form of its own first, then what has a telling
// name.
var kinds = []kind{
	{"age key", regexp.MustCompile(`()AGE-SECRET-KEY-1[0-9A-Z]+`)},
	// RFC 7519: a header, a payload and a signature, each in base64url; the first two begin with {" there.
	{"JSON web token", regexp.MustCompile(`()\beyJ[A-Za-z0-9_-]{6,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*`)},
	{"token", regexp.MustCompile(`()\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{"token", regexp.MustCompile(`()\bgh[pousr]_[A-Za-z0-9]{30,}\b`)},
	{"token", regexp.MustCompile(`()\bgithub_pat_[A-Za-z0-9_]{30,}\b`)},
	{"token", regexp.MustCompile(`()\b(?:glpat|dckr_pat|xox[abeprs])[-_][A-Za-z0-9_-]{10,}`)},
	{"token", regexp.MustCompile(`()\bAIza[0-9A-Za-z_-]{35}`)},
	{"token", regexp.MustCompile(`()\bK10[0-9a-f]{64}::[^\s"']+`)}, // k3s joins its nodes with it
	{"user of an address", regexp.MustCompile(`\b([a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@"'<>]+@`)},
	{"authorization", regexp.MustCompile(`((?i:\b(?:bearer|basic)\s+))[A-Za-z0-9+/=._~-]{6,}`)},
	// NAME=x, name: x, "name": "x"
	{"value", regexp.MustCompile(`((?i:[a-z0-9_./-]*(?:` + secretName + `)[a-z0-9_./-]*(?:` + quoted +
		`)?\]?\s*[:=]\s*))` + value)},
	// --name x
	{"value", regexp.MustCompile(`((?i:--?[a-z0-9-]*(?:` + secretName + `)[a-z0-9-]*[ \t\x00]+))` +
		`[^\s\x00-][^\s\x00]*`)},
	// "auth": "dXNlcjpwYXNz", of docker's and containerd's files
	{"value", regexp.MustCompile(`((?i:` + quoted + `?\b(?:auth|identitytoken)` + quoted + `?\s*[:=]\s*` + quoted +
		`))[^"'\\]+`)},
}

// hints are in all text that has a secret, in small letters: most lines of a log have none of them. A private key has
// "key".
var hints = [][]byte{[]byte("age-secret"), []byte("eyj"), []byte("akia"), []byte("asia"), []byte("ghp_"),
	[]byte("gho_"), []byte("ghu_"), []byte("ghs_"), []byte("ghr_"), []byte("github_pat_"), []byte("glpat"),
	[]byte("dckr_pat"), []byte("xox"), []byte("aiza"), []byte("k10"), []byte("://"), []byte("bearer"), []byte("basic"),
	[]byte("pass"), []byte("secret"), []byte("token"), []byte("credential"), []byte("key"), []byte("cookie"),
	[]byte("dockerconfigjson"), []byte("auth")}

// redactor takes secrets out, and counts them.
type redactor struct{ taken map[string]int }

// mark stands where a secret was.
func mark(name string) string { return "[" + name + " taken out]" }

// isSecret says whether a name is that of a secret.
var isSecret = regexp.MustCompile(`(?i)(?:` + secretName + `)`).MatchString

// text takes secrets out of text of any form.
func (r *redactor) text(b []byte) []byte {
	if !hinted(b) {
		return b
	}
	b = r.each(blocks, b)
	var out bytes.Buffer
	for line := range bytes.Lines(b) {
		if hinted(line) {
			line = r.each(kinds, line)
		}
		out.Write(line)
	}
	return out.Bytes()
}

// hinted says whether text may have a secret.
func hinted(b []byte) bool {
	b = bytes.ToLower(b)
	return slices.ContainsFunc(hints, func(h []byte) bool { return bytes.Contains(b, h) })
}

// each takes out what is of one of some kinds.
func (r *redactor) each(of []kind, b []byte) []byte {
	for _, k := range of {
		b = k.re.ReplaceAllFunc(b, func(m []byte) []byte {
			keep := k.re.FindSubmatch(m)[1]
			rest := m[len(keep):]
			if bytes.Contains(rest, []byte(" taken out")) {
				return m // by another kind
			}
			r.taken[k.name]++
			marks := len(rest) - len(bytes.TrimLeft(rest, `\"'`)) // a quotation is still one
			return slices.Concat(keep, rest[:marks], []byte(mark(k.name)))
		})
	}
	return b
}

// document takes secrets out of JSON, where their names and values are told apart whatever they hold. What is no JSON
// is text.
func (r *redactor) document(b []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return r.text(b)
	}
	if _, err := d.Token(); err != io.EOF { //nolint:errorlint // Token returns it as it is
		return r.text(b)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r.value(v)); err != nil {
		return r.text(b)
	}
	return out.Bytes()
}

// value takes secrets out of a value of JSON.
func (r *redactor) value(v any) any {
	switch v := v.(type) {
	case map[string]any:
		name, _ := v["name"].(string)
		for k, x := range v {
			switch {
			case x == nil || x == "" || x == false || x == true:
			case isSecret(k) || k == "value" && isSecret(name) || strings.HasSuffix(k, "last-applied-configuration"):
				r.taken["value"]++
				v[k] = mark("value")
			default:
				v[k] = r.value(x)
			}
		}
	case []any:
		for i, x := range v {
			v[i] = r.value(x)
		}
	case string:
		return r.string(v)
	}
	return v
}

// string is a text within JSON, which may be JSON again.
func (r *redactor) string(s string) string {
	if t := strings.TrimSpace(s); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") {
		return strings.TrimSpace(string(r.document([]byte(s))))
	}
	return string(r.text([]byte(s)))
}

// String tells what was taken out.
func (r *redactor) String() string {
	n := 0
	for _, c := range r.taken {
		n += c
	}
	switch n {
	case 0:
		return "nothing"
	case 1:
		return "1 secret"
	}
	return fmt.Sprintf("%d secrets", n)
}
