package document

import (
	"strings"
	"testing"
)

type sample struct {
	Name string         `json:"name"`
	List []string       `json:"list"`
	More map[string]int `json:"more,omitempty"`
}

func TestTheCanonicalFormIsTheOnlyOne(t *testing.T) {
	data, err := Encode(sample{Name: "a<b", List: []string{"x"}, More: map[string]int{"b": 2, "a": 1}})
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"name\": \"a<b\",\n  \"list\": [\n    \"x\"\n  ],\n  \"more\": {\n    \"a\": 1,\n    \"b\": 2\n " +
		" }\n}\n"
	if string(data) != want {
		t.Errorf("got %s", data)
	}
	for name, text := range map[string]string{
		"unknown field":   strings.Replace(want, `"name"`, `"nom": 1, "name"`, 1),
		"escaped letter":  strings.Replace(want, "a<b", `a\u003cb`, 1),
		"unsorted map":    strings.Replace(want, "\"a\": 1,\n    \"b\": 2", "\"b\": 2,\n    \"a\": 1", 1),
		"no line break":   strings.TrimSpace(want),
		"carriage return": strings.ReplaceAll(want, "\n", "\r\n"),
		"two documents":   want + want,
	} {
		var s sample
		if err := Decode("sample", []byte(text), &s); err == nil || !strings.HasPrefix(err.Error(), "sample: ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var s sample
	if err := Decode("sample", []byte(want), &s); err != nil {
		t.Error(err)
	}
}

func TestHugePapersAreRefusedBeforeTheyAreRead(t *testing.T) {
	var s sample
	if err := Decode("sample", make([]byte, maxSize+1), &s); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}
