package recipe

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/arch"
)

// placeholders are the words in a recipe's paths and names that stand for what an architecture is called.
func placeholders(a arch.Arch) map[string]string {
	return map[string]string{
		"{arch}": a.Name, "{debian_arch}": a.Debian, "{go_arch}": a.Go,
		// Debian's folder of libraries is called as the tool-chain's programs begin. dpkg-architecture(1),
		// DEB_HOST_MULTIARCH.
		"{multiarch}": strings.TrimSuffix(a.CrossPrefix, "-"),
	}
}

// placeholder is the form of one.
var placeholder = regexp.MustCompile(`\{[a-z_]+\}`)

// asIs are the fields whose text is taken as it stands: contents of files, and words for people or for the kernel.
func asIs(field string) bool {
	name := field[strings.LastIndex(field, ".")+1:]
	return slices.Contains([]string{"name", "arch", "text", "reason", "value"}, name) ||
		strings.HasPrefix(field, "boot.command_line")
}

// expand puts the architecture's names in the place of placeholders, and notes those that do not exist.
func (r *Recipe) expand(a arch.Arch, at note) {
	words := placeholders(a)
	known := slices.Sorted(maps.Keys(words))
	var visit func(v reflect.Value, field string)
	visit = func(v reflect.Value, field string) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				visit(v.Elem(), field)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				name := v.Type().Field(i).Tag.Get("yaml")
				if !v.Type().Field(i).IsExported() || name == "" {
					continue
				}
				visit(v.Field(i), strings.TrimPrefix(field+"."+name, "."))
			}
		case reflect.Slice:
			for i := range v.Len() {
				visit(v.Index(i), fmt.Sprintf("%s[%d]", field, i))
			}
		case reflect.String:
			if asIs(field) || !strings.Contains(v.String(), "{") {
				return
			}
			v.SetString(placeholder.ReplaceAllStringFunc(v.String(), func(w string) string {
				if words[w] == "" {
					at(field, fmt.Sprintf("unknown placeholder %q%s", w, didYouMean(w, known)))
					return w
				}
				return words[w]
			}))
		}
	}
	visit(reflect.ValueOf(r).Elem(), "")
}

// setArch decides for which architecture the recipe counts: the one that the caller names, or its own, or the first.
// A machine that another architecture has gives way to the default one where the caller decided.
func (r *Recipe) setArch(asked string, at note) {
	if r.Arch == "" {
		r.Arch = arch.All()[0].Name
	}
	own, err := arch.Parse(r.Arch)
	if err != nil {
		at("arch", fmt.Sprintf("unknown architecture %q%s", r.Arch, didYouMean(r.Arch, arch.Names(arch.All()))))
		return
	}
	if asked != "" && asked != own.Name {
		r.Arch, r.other = asked, true
		if _, has := own.FindMachine(r.Boot.Machine); has {
			r.Boot.Machine = ""
		}
	}
	if a, err := arch.Parse(r.Arch); err == nil {
		r.expand(a, at)
	}
}

// Other says whether the recipe was read for another architecture than its own.
func (r *Recipe) Other() bool { return r.other }
