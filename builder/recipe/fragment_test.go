package recipe

import "testing"

func TestAFragmentIsNamedInARecipe(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"none yet": {"version: 1\nkernel: # ours\n  # Source.\n  source: {tree: x}\nboot: {}\n",
			"version: 1\nkernel: # ours\n  fragments: [my.config]\n  # Source.\n  source: {tree: x}\nboot: {}\n"},
		"a list in a line": {"kernel:\n  fragments: [a.config, \"b.config\"] # two\n",
			"kernel:\n  fragments: [a.config, b.config, my.config] # two\n"},
		"an empty list": {"kernel:\n  fragments: []\n", "kernel:\n  fragments: [my.config]\n"},
		"a list of lines": {"kernel:\n    fragments:\n      - a.config\n    x: 1\n",
			"kernel:\n    fragments:\n      - a.config\n      - my.config\n    x: 1\n"},
		"there already":  {"kernel:\n  fragments: [my.config]\n", ""},
		"there in lines": {"kernel:\n  fragments:\n  - my.config\n", ""},
		"of another section": {"other:\n  fragments: [x]\nkernel:\n  a: 1\n",
			"other:\n  fragments: [x]\nkernel:\n  fragments: [my.config]\n  a: 1\n"},
	} {
		got, changed, err := AddFragment([]byte(c.before), "my.config")
		if err != nil || changed != (c.after != "") || changed && string(got) != c.after {
			t.Errorf("%s: %v, %v\n%s", name, changed, err, got)
		}
	}
	for _, text := range []string{"kernel: {features: []}\n", "", "kernel:\n  fragments: [a,\n    b]\n"} {
		if got, _, err := AddFragment([]byte(text), "my.config"); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
}
