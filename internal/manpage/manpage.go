// Package manpage writes the manual pages of a program from its commands, so that pages and help say the same.
package manpage

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command is the word man, which writes the pages of root and of every command below it, and one file of completions a
// shell. It is for whoever makes packages, and not listed.
func Command(root *cobra.Command) *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "man", Hidden: true, Args: cobra.NoArgs, Short: "write manual pages and completions for shells",
		Long: `man writes a manual page for every command into FOLDER/man1, and what shells complete the command's
words and flags by into FOLDER/bash, FOLDER/zsh and FOLDER/fish.`,
		Example: "  " + root.Name() + " man -o share",
	}
	c.Flags().StringVarP(&out, "output", "o", "share", "`folder` to write to")
	c.RunE = func(*cobra.Command, []string) error { return write(root, out) }
	return c
}

func write(root *cobra.Command, dir string) error {
	name := root.Name()
	files := map[string][]byte{}
	var add func(c *cobra.Command)
	add = func(c *cobra.Command) {
		files["man1/"+pageName(c)+".1"] = pageOf(c)
		for _, sub := range shown(c) {
			add(sub)
		}
	}
	add(root)
	for file, of := range map[string]func(*bytes.Buffer) error{
		"bash/" + name:           func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"zsh/_" + name:           func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"fish/" + name + ".fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := of(&b); err != nil {
			return err
		}
		files[file] = b.Bytes()
	}
	for file, data := range files {
		p := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// shown are the commands below one that help lists.
func shown(c *cobra.Command) (out []*cobra.Command) {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && !sub.IsAdditionalHelpTopicCommand() {
			out = append(out, sub)
		}
	}
	return out
}

// pageName is what a command's page is called: program-word-word.
func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// pageOf is the manual page of a command, section 1, in the man macros of groff (groff_man(7)).
func pageOf(c *cobra.Command) []byte {
	var p page
	p.macro("TH", strings.ToUpper(pageName(c)), "1", "", c.Root().Name(), "User Commands")
	p.macro("SH", "NAME")
	p.printf("%s \\- %s\n", escape(pageName(c)), escape(c.Short))
	p.macro("SH", "SYNOPSIS")
	p.printf(".B %s\n", escape(c.UseLine()))
	p.macro("SH", "DESCRIPTION")
	long := c.Long
	if long == "" {
		long = c.Short
	}
	p.text(long)
	p.flags("OPTIONS", c.NonInheritedFlags())
	p.flags("OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	if subs := shown(c); len(subs) > 0 {
		p.macro("SH", "COMMANDS")
		for _, s := range subs {
			p.macro("TP")
			p.printf(".BR %s (1)\n%s\n", escape(pageName(s)), escape(s.Short))
		}
	}
	if c.Example != "" {
		p.macro("SH", "EXAMPLES")
		p.verbatim(c.Example)
	}
	if c.HasParent() {
		p.macro("SH", "SEE ALSO")
		p.printf(".BR %s (1)\n", escape(pageName(c.Parent())))
	}
	return p.Bytes()
}

type page struct{ bytes.Buffer }

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.Buffer, format, args...) }

// macro writes a line of a macro and its arguments, each in quotes.
func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		p.WriteString(` "` + strings.ReplaceAll(escape(a), `"`, `\(dq`) + `"`)
	}
	p.WriteString("\n")
}

// text writes paragraphs, and as they are what is indented.
func (p *page) text(s string) {
	for i, para := range strings.Split(s, "\n\n") {
		if strings.HasPrefix(para, "  ") || strings.Contains(para, "\n  ") {
			p.macro("PP")
			p.verbatim(para)
			continue
		}
		if i > 0 {
			p.macro("PP")
		}
		for l := range strings.Lines(para) {
			p.printf("%s\n", escape(strings.TrimRight(l, "\n")))
		}
	}
}

func (p *page) verbatim(s string) {
	p.macro("nf")
	for l := range strings.Lines(s) {
		p.printf("%s\n", escape(strings.TrimRight(l, "\n")))
	}
	p.macro("fi")
}

func (p *page) flags(title string, f *pflag.FlagSet) {
	if !f.HasAvailableFlags() {
		return
	}
	p.macro("SH", title)
	f.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		words := "--" + f.Name
		if f.Shorthand != "" {
			words = "-" + f.Shorthand + ", " + words
		}
		if value != "" {
			words += " " + value
		}
		p.macro("TP")
		p.printf(".B %s\n", escape(words))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "[]" {
			usage += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		p.printf("%s\n", escape(usage))
	})
}

// escape makes a line stand for itself: no requests, no escapes, and hyphens that can be copied (groff(7)).
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n", " ").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
