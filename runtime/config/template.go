package config

import (
	"fmt"
	"strings"
)

// Template is a configuration for a hypervisor that explains every key and sets none: what stands behind a single # is
// the default, or an example where the default is empty.
func Template(hypervisor string) []byte {
	var b strings.Builder
	b.WriteString("# configuration.toml of kata-runtime. \"kata-runtime config\" shows what is in force, and where " +
		"it was set.\n" +
		"# Take the # away from a line to set it. Files in config.d beside this one are read after it, in the order " +
		"of their names.\n" +
		"# Keys marked \"not Kata's\" are unknown to Kata Containers; all others are its own.\n")
	def := DefaultOf(hypervisor)
	for _, s := range sections {
		if !def.inForce(s) {
			continue
		}
		var idle []string
		for _, i := range idles {
			if i.in(s) {
				idle = append(idle, i.names...)
			}
		}
		fmt.Fprintf(&b, "\n[%s]\n", s)
		for i := range keys {
			k := &keys[i]
			if k.section != s {
				continue
			}
			b.WriteByte('\n')
			doc := k.doc
			if k.ours {
				doc += "\nNot Kata's."
			}
			if k.pod {
				doc += fmt.Sprintf("\nAnnotation: %s%s.%s", AnnotationPrefix, strings.Split(s, ".")[0], k.name)
			}
			for line := range strings.SplitSeq(doc, "\n") {
				fmt.Fprintf(&b, "# %s\n", line)
			}
			value, note := k.field(&def).toml(), ""
			if k.example != "" {
				value, note = k.example, fmt.Sprintf(" # an example; the default is %s", value)
			}
			fmt.Fprintf(&b, "#%s = %s%s\n", k.name, value, note)
		}
		fmt.Fprintf(&b, "\n# Accepted without effect:\n")
		for _, l := range wrap(idle, 110) {
			fmt.Fprintf(&b, "#   %s\n", l)
		}
	}
	return []byte(b.String())
}

// wrap joins words by commas into lines of at most width bytes, where words are shorter.
func wrap(words []string, width int) []string {
	var out []string
	line := ""
	for i, w := range words {
		if i < len(words)-1 {
			w += ","
		}
		if line != "" && len(line)+1+len(w) > width {
			out, line = append(out, line), ""
		}
		line = strings.TrimPrefix(line+" "+w, " ")
	}
	return append(out, line)
}
