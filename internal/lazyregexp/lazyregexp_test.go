package lazyregexp

import "testing"

func TestExpressionsAreCompiledAtFirstUse(t *testing.T) {
	word, none := New(`^[a-z]+$`), New(`(`)
	first := word()
	if word() != first || !first.MatchString("abc") || first.MatchString("a c") {
		t.Error(first)
	}
	defer func() {
		if recover() == nil {
			t.Error("an expression that is none is compiled")
		}
	}()
	none()
}
