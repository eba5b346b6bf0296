// Package kube reads what of Kubernetes' objects a policy depends on, and writes annotations into their texts.
//
// YAML of a person goes in, with several documents and lists; pods, what makes pods, ConfigMaps and Secrets come out.
// Fields that it does not know are mistakes at their line, since a policy that overlooks one would be about another
// pod. It knows nothing of policies.
package kube

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/katabuild/katabuild/internal/mistake"
)

// maxText bounds a file, in bytes: what a cluster takes for one object is 1.5 MiB, and a file may have several.
const maxText = 4 << 20

// maxDocuments bounds those of a file.
const maxDocuments = 1000

// Set is what files hold.
type Set struct {
	Pods       []*Pod
	ConfigMaps map[string]map[string]string // by name
	Secrets    map[string]map[string]string
}

// Pod is a pod, or what makes pods, and where it stands.
type Pod struct {
	Kind     string // Pod, Deployment, ...
	Name     string // of the object, which a generated name may take the place of
	Template Template
	Claims   []string // volumes that a StatefulSet claims for each of its pods
	Indexed  bool     // a Job whose pods have an index

	file *File
	line int              // of the object
	node *ast.MappingNode // of the template
}

// Place is where the pod's object begins: FILE:LINE.
func (p *Pod) Place() string {
	return fmt.Sprintf("%s:%d", p.file.name, p.line)
}

// File is one file, as it was read.
type File struct {
	name  string
	lines []string
	edits []edit
}

// Reader reads files.
type Reader struct {
	Lenient bool // fields that are not known are passed over
	Set     Set
}

// Read reads a file, which has a name for errors, and adds what it holds to the Set.
func (r *Reader) Read(name string, data []byte) (*File, error) {
	if len(data) > maxText {
		return nil, fmt.Errorf("%s: %d bytes: want at most %d", name, len(data), maxText)
	}
	f := &File{name: name, lines: strings.SplitAfter(string(data), "\n")}
	for n, begin := 0, 0; begin < len(f.lines); n++ {
		if n == maxDocuments {
			return nil, fmt.Errorf("%s: more than %d documents", name, maxDocuments)
		}
		end := begin
		for end < len(f.lines) && (end == begin || !isMark(f.lines[end])) {
			end++
		}
		if err := r.document(f, begin, end); err != nil {
			return nil, err
		}
		begin = end
	}
	return f, nil
}

// isMark says whether a line begins a document. YAML 1.2.2, 9.1.2. The parser is given one document at a time: where
// several empty ones follow each other it forgets those behind them.
func isMark(line string) bool {
	rest, ok := strings.CutPrefix(line, "---")
	return ok && strings.TrimLeft(rest[:min(1, len(rest))], " \t\r\n") == ""
}

// document reads the lines of one document. Those before it are left empty, so that places are those of the file.
func (r *Reader) document(f *File, begin, end int) error {
	text := strings.Repeat("\n", begin) + strings.Join(f.lines[begin:end], "")
	doc, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		return f.yamlError(err)
	}
	for _, d := range doc.Docs {
		if d.Body == nil || d.Body.Type() == ast.NullType || d.Body.Type() == ast.CommentType {
			continue
		}
		if err := r.object(f, d.Body); err != nil {
			return err
		}
	}
	return nil
}

// mistake is an error at a place of the file.
func (f *File) mistake(t *token.Token, format string, a ...any) error {
	m := &mistake.Error{File: f.name, Line: 1, Column: 1, Message: fmt.Sprintf(format, a...)}
	if t != nil && t.Position != nil {
		m.Line, m.Column = t.Position.Line, t.Position.Column
	}
	if m.Line <= len(f.lines) {
		m.Source = strings.TrimRight(f.lines[m.Line-1], "\r\n")
	}
	return m
}

func (f *File) yamlError(err error) error {
	if e, ok := errors.AsType[yaml.Error](err); ok {
		return f.mistake(e.GetToken(), "%s", e.GetMessage())
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

// mappingOf is the mapping that a node is, through what stands around one.
func mappingOf(n ast.Node) *ast.MappingNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n
	case *ast.MappingValueNode: // one pair is one
		return ast.Mapping(n.GetToken(), false, n)
	case *ast.AnchorNode:
		return mappingOf(n.Value)
	case *ast.TagNode:
		return mappingOf(n.Value)
	}
	return nil
}

// find is what a mapping has under a key; nil where there is none.
func find(m *ast.MappingNode, key string) *ast.MappingValueNode {
	if m == nil {
		return nil
	}
	for _, v := range m.Values {
		if v.Key.GetToken().Value == key {
			return v
		}
	}
	return nil
}

func wordAt(m *ast.MappingNode, key string) string {
	if v := find(m, key); v != nil {
		if s, ok := v.Value.(*ast.StringNode); ok {
			return s.Value
		}
	}
	return ""
}

func (r *Reader) object(f *File, n ast.Node) error {
	m := mappingOf(n)
	if m == nil {
		return f.mistake(n.GetToken(), "want an object of Kubernetes, a mapping with kind")
	}
	kind := wordAt(m, "kind")
	switch kind {
	case "":
		return f.mistake(n.GetToken(), "want an object of Kubernetes: it has no kind")
	case "List":
		items := find(m, "items")
		if items == nil {
			return nil
		}
		list, ok := items.Value.(*ast.SequenceNode)
		if !ok {
			return f.mistake(items.GetToken(), "items: want a list")
		}
		for _, item := range list.Values {
			if err := r.object(f, item); err != nil {
				return err
			}
		}
		return nil
	case "ConfigMap", "Secret":
		return r.config(f, n, kind)
	case "Pod":
		p := &Pod{Kind: kind, file: f, node: m, line: n.GetToken().Position.Line}
		if err := r.into(f, n, &p.Template); err != nil {
			return err
		}
		p.Name = p.Template.Metadata.Name
		return r.pod(p)
	case "Deployment", "DaemonSet", "Job", "CronJob", "ReplicaSet", "ReplicationController", "StatefulSet":
		return r.workload(f, n, m, kind)
	}
	return nil // it makes no pods
}

// into decodes a node.
func (r *Reader) into(f *File, n ast.Node, v any) error {
	var o []yaml.DecodeOption
	if !r.Lenient {
		o = append(o, yaml.Strict())
	}
	if err := yaml.NodeToValue(n, v, o...); err != nil {
		return f.yamlError(err)
	}
	return nil
}

func (r *Reader) workload(f *File, n ast.Node, m *ast.MappingNode, kind string) error {
	var w workload
	if err := r.into(f, n, &w); err != nil {
		return err
	}
	path := []string{"spec", "template"}
	of := &w
	if kind == "CronJob" {
		if w.Spec.JobTemplate == nil {
			return f.mistake(n.GetToken(), "a CronJob has a jobTemplate")
		}
		of, path = w.Spec.JobTemplate, []string{"spec", "jobTemplate", "spec", "template"}
	}
	at := m
	for _, key := range path {
		v := find(at, key)
		if v == nil || mappingOf(v.Value) == nil {
			return f.mistake(at.GetToken(), "want %s: a %s has a template of its pods, in full", key, kind)
		}
		at = mappingOf(v.Value)
	}
	p := &Pod{Kind: kind, Name: w.Metadata.Name, Template: of.Spec.Template, file: f, node: at,
		line: n.GetToken().Position.Line, Indexed: of.Spec.CompletionMode == "Indexed"}
	if p.Template.Metadata.Namespace == "" {
		p.Template.Metadata.Namespace = w.Metadata.Namespace
	}
	for _, c := range of.Spec.VolumeClaimTemplates {
		p.Claims = append(p.Claims, c.Metadata.Name)
	}
	return r.pod(p)
}

func (r *Reader) pod(p *Pod) error {
	if len(p.Template.Spec.Containers) == 0 {
		return p.file.mistake(p.node.GetToken(), "a %s without containers", p.Kind)
	}
	if p.Name == "" && p.Template.Metadata.GenerateName == "" {
		return p.file.mistake(p.node.GetToken(), "a %s without a name", p.Kind)
	}
	r.Set.Pods = append(r.Set.Pods, p)
	return nil
}

func (r *Reader) config(f *File, n ast.Node, kind string) error {
	var c config
	if err := r.into(f, n, &c); err != nil {
		return err
	}
	data, into := map[string]string{}, &r.Set.ConfigMaps
	for k, v := range c.Data {
		if kind == "Secret" {
			b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(v), ""))
			if err != nil {
				return f.mistake(n.GetToken(), "Secret %s, key %s: want base64", c.Metadata.Name, k)
			}
			v = string(b)
		}
		data[k] = v
	}
	if kind == "Secret" {
		into = &r.Set.Secrets
		maps.Copy(data, c.StringData)
	}
	if *into == nil {
		*into = map[string]map[string]string{}
	}
	(*into)[c.Metadata.Name] = data
	return nil
}

// base64Letters are those of RFC 4648.
const base64Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

// edit puts text at a place.
type edit struct {
	line, column int // from 1, in characters
	text         string
	drop         int // characters behind it that the text takes the place of
}

// Annotate gives the pod an annotation, in the place of one of this name. What else the text has stays as it is.
func (p *Pod) Annotate(key, value string) error {
	f := p.file
	quoted := `"` + value + `"` // base64
	entry := func(column int, names ...string) string {
		var b strings.Builder
		for i, n := range names {
			fmt.Fprintf(&b, "%s%s:", strings.Repeat(" ", 2*i), n)
			if i == len(names)-1 {
				b.WriteString(" " + quoted)
			}
			b.WriteString("\n" + strings.Repeat(" ", column-1))
		}
		return b.String()
	}
	put := func(m *ast.MappingNode, names ...string) error {
		if m.IsFlowStyle {
			var b strings.Builder
			for i, n := range names {
				if i > 0 {
					b.WriteByte('{')
				}
				b.WriteString(n + ": ")
			}
			b.WriteString(quoted + strings.Repeat("}", len(names)-1))
			if len(m.Values) > 0 {
				b.WriteString(", ")
			}
			at := m.Start.Position
			f.edits = append(f.edits, edit{line: at.Line, column: at.Column + 1, text: b.String()})
			return nil
		}
		at := m.Values[0].Key.GetToken().Position
		f.edits = append(f.edits, edit{line: at.Line, column: at.Column, text: entry(at.Column, names...)})
		return nil
	}
	meta := find(p.node, "metadata")
	if meta == nil {
		return put(p.node, "metadata", "annotations", key)
	}
	m := mappingOf(meta.Value)
	if m == nil {
		return f.mistake(meta.GetToken(), "metadata: want a mapping, in full, to write an annotation into")
	}
	have := find(m, "annotations")
	if have == nil {
		return put(m, "annotations", key)
	}
	a := mappingOf(have.Value)
	if a == nil {
		return f.mistake(have.GetToken(), "annotations: want a mapping, in full, to write one into")
	}
	old := find(a, key)
	if old == nil {
		return put(a, key)
	}
	v := old.Value.GetToken()
	if v.Type != token.DoubleQuoteType || strings.Trim(v.Value, base64Letters) != "" {
		return f.mistake(old.Key.GetToken(), "the annotation is there already, and is no base64 in double "+
			"quotes: take it out")
	}
	f.edits = append(f.edits, edit{line: v.Position.Line, column: v.Position.Column, text: quoted,
		drop: len(v.Value) + 2})
	return nil
}

// Text is the file with its pods' annotations.
func (f *File) Text() string {
	lines := slices.Clone(f.lines)
	edits := slices.Clone(f.edits)
	// From the end, so that what is in front stays where it is.
	slices.SortStableFunc(edits, func(a, b edit) int {
		if a.line != b.line {
			return b.line - a.line
		}
		return b.column - a.column
	})
	for _, e := range edits {
		line := []rune(lines[e.line-1])
		at := min(e.column-1, len(line))
		lines[e.line-1] = string(line[:at]) + e.text + string(line[min(at+e.drop, len(line)):])
	}
	return strings.Join(lines, "")
}
