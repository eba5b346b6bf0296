package lazyregexp

import "testing"

func TestExpressionsAreCompiledAtFirstUse(t *testing.T) {
	word, none := New(`^[a-z]+$`), New(`(`)
	if word() != word() || !word().MatchString("abc") || word().MatchString("a c") {
		t.Error(word())
	}
	defer func() {
		if recover() == nil {
			t.Error("an expression that is none is compiled")
		}
	}()
	none()
}
