package promtext

import (
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	families := []Family{
		{Name: "a", Help: "A \\ with\na line.", Kind: Gauge, Samples: []Sample{
			{Labels: Labels("x", "q\"b\\n\n", "y", "ü"), Value: Value(1.5)},
			{Labels: Labels("x", ""), Value: Int(-3)}}},
		{Name: "b_total", Kind: Counter, Samples: []Sample{{Value: Value(math.Inf(1))}}},
		{Name: "h", Help: "Times.", Kind: Histogram, Samples: []Sample{
			{Suffix: "_bucket", Labels: Labels("le", "1"), Value: "1"},
			{Suffix: "_bucket", Labels: Labels("le", "+Inf"), Value: "2"},
			{Suffix: "_sum", Value: Value(3)}, {Suffix: "_count", Value: "2"}}},
	}
	text := string(Append(nil, append(families, Family{Name: "empty"})))
	got, dropped := Parse(text, Limits{})
	if dropped != 0 || !reflect.DeepEqual(got, families) {
		t.Errorf("%d dropped of\n%s\n%+v", dropped, text, got)
	}
	if strings.Contains(text, "empty") {
		t.Error("a family without samples is written")
	}
	if again := string(Append(nil, got)); again != text {
		t.Errorf("%s\nbecomes\n%s", text, again)
	}
}

func TestWhatIsNoMetricIsLeftOut(t *testing.T) {
	for text, want := range map[string]string{
		"a 1":                            "a 1",
		"a\t1 ":                          "a 1",
		"a 1 1700000000000":              "a 1", // its time
		"a{} NaN":                        "a NaN",
		`a{x="y",} +Inf`:                 `a{x="y"} +Inf`,
		`a { x = "y z" , q="\"\\\n" } 1`: `a{x="y z",q="\"\\\n"} 1`,
		"a_b:c -1.5e+3":                  "a_b:c -1.5e+3",
		"a":                              "",
		"a one":                          "",
		"a 0x10":                         "",
		"a 1e999":                        "",
		"a inf":                          "",
		"a 1 2 3":                        "",
		"a 1 now":                        "",
		"1a 1":                           "",
		"a{x} 1":                         "",
		"a{x=y} 1":                       "",
		`a{x="y"`:                        "",
		`a{x="y} 1`:                      "",
		`a{x="\t"} 1`:                    "",
		`a{x="1",x="2"} 1`:               "",
		`a{__name__="b"} 1`:              "",
		`a{1="b"} 1`:                     "",
		`a{x="1"y="2"} 1`:                "",
		`a{,} 1`:                         "",
		"# a comment":                    "",
		"# HELP 1 x":                     "",
		"# TYPE a thing":                 "",
		"# HELP a \x1b]0;x\a":            "",
		"a{x=\"\x1b[2J\"} 1":             "",
		"a{x=\"\u009b2J\"} 1":            "",
		"a{x=\"\xff\"} 1":                "",
		"a 1\r":                          "",
		strings.Repeat("a", 201) + " 1":  "",
	} {
		families, dropped := Parse(text+"\n\n", Limits{})
		var lines []string
		for l := range strings.Lines(string(Append(nil, families))) {
			if !strings.HasPrefix(l, "#") {
				lines = append(lines, strings.TrimSuffix(l, "\n"))
			}
		}
		if got := strings.Join(lines, "|"); got != want || (dropped == 0) != (want != "") {
			t.Errorf("%q: %q, %d dropped; want %q", text, got, dropped, want)
		}
	}
}

func TestAFamilyIsSaidOnce(t *testing.T) {
	families, dropped := Parse(`# TYPE a gauge
# TYPE a counter
# HELP a One.
# HELP a Two.
a 1
a 2
# HELP a Late.
b_count 1
# TYPE a_sum gauge
a_sum 1
a 3
`, Limits{})
	if want := "# HELP a One.\n# TYPE a gauge\na 1\n# TYPE b_count untyped\nb_count 1\n" +
		"# TYPE a_sum gauge\na_sum 1\n"; string(Append(nil, families)) != want || dropped != 5 {
		t.Errorf("%d dropped, %s", dropped, Append(nil, families))
	}
}

func TestLimitsHold(t *testing.T) {
	l := Limits{Line: 20, Families: 2, Samples: 3, Simple: true,
		Family: func(name string) bool { return strings.HasPrefix(name, "ok") },
		Label:  func(name string) bool { return name != "bad" }}
	families, dropped := Parse("ok_a 1\nother 1\nok_b{bad=\"1\"} 1\nok_b{x=\"0123456789\"} 1\n"+
		"# TYPE ok_b histogram\nok_b 1\nok_c 1\nok_b{y=\"1\"} 1\nok_b{y=\"2\"} 1\n", l)
	if want := "# TYPE ok_a untyped\nok_a 1\n# TYPE ok_b untyped\nok_b 1\nok_b{y=\"1\"} 1\n"; dropped != 6 ||
		string(Append(nil, families)) != want {
		t.Errorf("%d dropped, %s", dropped, Append(nil, families))
	}
	families, dropped = Parse("a 1\nb 1\nc 1\n", Limits{Bytes: 6})
	if len(families) != 1 || dropped != 2 {
		t.Errorf("%d dropped, %+v", dropped, families)
	}
}

func TestLabelsAreJoined(t *testing.T) {
	if Join("", "a") != "a" || Join("a", "") != "a" || Join("a", "b") != "a,b" {
		t.Error("labels are not joined")
	}
}

func TestFamiliesOfSeveralAreMerged(t *testing.T) {
	one := []Family{{Name: "b", Kind: Gauge, Samples: []Sample{{Value: "1"}}},
		{Name: "a", Samples: []Sample{{Value: "2"}}}}
	two := []Family{{Name: "b", Kind: Gauge, Samples: []Sample{{Labels: `x="1"`, Value: "3"}}},
		{Name: "a", Kind: Counter, Samples: []Sample{{Value: "4"}}}}
	if got, want := string(Append(nil, Merge(one, two))),
		"# TYPE a untyped\na 2\na 4\n# TYPE b gauge\nb 1\nb{x=\"1\"} 3\n"; got != want {
		t.Error(got)
	}
	if len(one[0].Samples) != 1 {
		t.Error("what was given is changed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a{x=\"y\"} 1\n# TYPE a gauge\n# HELP a b\\n\nkatabuild_x 1\n\x1b\n")
	f.Add("# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_sum 2\nh_count 1\nh 1\n") // a sample that is none of its family
	f.Add("a{x = \"\\\\\" , } NaN 12\n")
	f.Fuzz(func(t *testing.T, text string) {
		families, _ := Parse(text, Limits{})
		clean := string(Append(nil, families))
		if strings.ContainsAny(clean, "\x1b\r\x00\u009b") {
			t.Errorf("%q", clean)
		}
		again, dropped := Parse(clean, Limits{})
		if dropped != 0 || string(Append(nil, again)) != clean {
			t.Errorf("%q becomes %q, %d dropped", clean, Append(nil, again), dropped)
		}
	})
}
