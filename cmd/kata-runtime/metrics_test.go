package main

import (
	"strings"
	"testing"
	"time"
)

func TestProcessesAreReadFromProc(t *testing.T) {
	const line = "1234 (a) b) S 1 1 1 0 -1 4194560 5 6 7 8 250 50 3 4 20 0 9 0 777 1000000 300 " +
		"18446744073709551615 1 1\n"
	st, err := parseStat(line, 4096)
	if want := (stats{residentBytes: 300 * 4096, cpu: 3 * time.Second, threads: 9}); err != nil || st != want {
		t.Errorf("%+v, %v; want %+v", st, err, want)
	}
	for _, bad := range []string{"", "1 (a", "1 (a) S 1", strings.Replace(line, " 300 ", " -3 ", 1),
		strings.Replace(line, " 250 ", " x ", 1)} {
		if st, err := parseStat(bad, 4096); err == nil {
			t.Errorf("%q: %+v", bad, st)
		}
	}
}

func TestOnlyMetricsOfTheGuestAreLetThrough(t *testing.T) {
	for l, good := range map[string]bool{
		"# HELP a Some text, with \"anything\".": true,
		"# TYPE a gauge":                         true,
		"a 1":                                    true,
		"a_b:c{x=\"y z\",q=\"a\\\"b\\\\\\n\"} -1.5e+3 1700000000000": true,
		"a{} NaN":                   true,
		"a +Inf":                    true,
		"a{x=\"ü\"} 1":              true,
		"a":                         false,
		"a one":                     false,
		"# a comment":               false,
		"a{x=\"\x1b[2J\"} 1":        false,
		"a{x=\"\u009b2J\"} 1":       false,
		"a{x=\"\xff\"} 1":           false,
		"# HELP a \x1b]0;x\a":       false,
		"a 1\r":                     false,
		"katabuild_pod_up 1":        false,
		"# TYPE katabuild_x gauge":  false,
		"# HELP katabuild_x a help": false,
	} {
		clean, dropped := cleanMetrics(l + "\n\n")
		if (clean == l+"\n") != good || (dropped == 0) != good {
			t.Errorf("%q: %q, %d dropped", l, clean, dropped)
		}
	}
}

func TestLabelsAreQuoted(t *testing.T) {
	s := podState{Record: mustRecord(t)}
	s.Guest, s.Verdict = `/srv/a"b\c`+"\n", nil
	out := hostMetrics(s, func(int) (stats, error) { return stats{}, nil })
	if want := `guest="a\"b\\c\n"`; !strings.Contains(out, want) {
		t.Errorf("no %s in %s", want, out)
	}
}

func FuzzCleanMetrics(f *testing.F) {
	f.Add("a{x=\"y\"} 1\n# TYPE a gauge\nkatabuild_x 1\n\x1b\n")
	f.Fuzz(func(t *testing.T, text string) {
		clean, _ := cleanMetrics(text)
		if strings.ContainsAny(clean, "\x1b\r\x00\u009b") || strings.Contains("\n"+clean, "\n"+hostPrefix) {
			t.Errorf("%q", clean)
		}
		if again, dropped := cleanMetrics(clean); again != clean || dropped != 0 {
			t.Errorf("%q becomes %q", clean, again)
		}
		_, _ = parseStat(text, 4096)
	})
}
