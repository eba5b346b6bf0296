package metrics

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/record"
)

func text(families ...promtext.Family) string { return string(promtext.Append(nil, families)) }

func TestProcessesAreReadFromProc(t *testing.T) {
	const line = "1234 (a) b) S 1 1 1 0 -1 4194560 5 6 7 8 250 50 3 4 20 0 9 0 777 1000000 300 " +
		"18446744073709551615 1 1\n"
	st, err := parseStat(line, 4096)
	if want := (Stat{ResidentBytes: 300 * 4096, VirtualBytes: 1000000, User: 2500 * time.Millisecond,
		System: 500 * time.Millisecond, ChildrenUser: 30 * time.Millisecond, ChildrenSystem: 40 * time.Millisecond,
		Threads: 9}); err != nil || st != want || st.CPU() != 3*time.Second {
		t.Errorf("%+v, %v; want %+v", st, err, want)
	}
	for _, bad := range []string{"", "1 (a", "1 (a) S 1", strings.Replace(line, " 300 ", " -3 ", 1),
		strings.Replace(line, " 250 ", " x ", 1)} {
		if st, err := parseStat(bad, 4096); err == nil {
			t.Errorf("%q: %+v", bad, st)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (a) b) S 1 1 1 0 -1 4194560 5 6 7 8 250 50 3 4 20 0 9 0 777 1000000 300 1 1 1\n")
	f.Fuzz(func(_ *testing.T, line string) {
		_, _ = parseStat(line, 4096)
		items(line, statusItems)
		netDev(line)
	})
}

func TestAProcessHasKatasFamilies(t *testing.T) {
	got := text(Process(VirtioFSD, os.Getpid())...)
	for _, want := range []string{"kata_virtiofsd_fds ", "kata_virtiofsd_threads ",
		`kata_virtiofsd_proc_stat{item="utime"} `, `kata_virtiofsd_proc_status{item="vmrss"} `,
		`kata_virtiofsd_proc_status{item="nonvoluntary_ctxt_switches"} `, `kata_virtiofsd_io_stat{item="rchar"} `,
		`kata_virtiofsd_io_stat{item="cancelledwritebytes"} `} {
		if !strings.Contains(got, "\n"+want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if text(Process(Shim, -1)...) != "" || text(Network(-1)...) != "" {
		t.Error("a process that is none has numbers")
	}
	if own := text(Self("x_")...); !strings.Contains(own, "\nx_go_goroutines ") ||
		!strings.Contains(own, "\nx_process_resident_memory_bytes ") {
		t.Error(own)
	}
	if families, dropped := promtext.Parse(got, promtext.Limits{}); dropped > 0 || len(families) == 0 {
		t.Error("it is no text of metrics")
	}
}

func TestFilesOfProcBecomeSamples(t *testing.T) {
	got := text(promtext.Family{Name: "a", Samples: items("Name:\tx\nVmRSS:\t  12 kB\nread_bytes: 7\n",
		[]string{"VmRSS", "read_bytes", "VmPeak"})},
		promtext.Family{Name: "n", Samples: netDev("Inter-| Receive\n face |bytes\n" +
			"  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  lo: 1\n")})
	for _, want := range []string{`a{item="vmrss"} 12288`, `a{item="readbytes"} 7`,
		`n{interface="eth0",item="recv_frame"} 6`, `n{interface="eth0",item="sent_colls"} 14`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "\nn{"); n != 16 {
		t.Errorf("%d numbers of interfaces", n)
	}
}

func TestDurationsAreCounted(t *testing.T) {
	var d Durations
	for _, ms := range []time.Duration{0, 1, 3, 600} {
		d.Observe("create", ms*time.Millisecond)
	}
	got := text(d.Family("h", "Times.", "action"))
	for _, want := range []string{`h_bucket{action="create",le="1"} 2`, `h_bucket{action="create",le="4"} 3`,
		`h_bucket{action="create",le="512"} 3`, `h_bucket{action="create",le="+Inf"} 4`,
		`h_sum{action="create"} 604`, `h_count{action="create"} 4`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	if plain := text(d.Family("h", "", "")); !strings.Contains(plain, "\nh_count 4\n") {
		t.Error(plain)
	}
}

func TestAGuestSpeaksOfItselfAlone(t *testing.T) {
	var many strings.Builder
	for i := range 3 * maxGuestSamples {
		fmt.Fprintf(&many, "kata_guest_x{n=\"%d\"} 1\n", i)
	}
	for what, l := range map[string]string{
		"the host's name":        "katabuild_pod_attested 1",
		"the shim's name":        "kata_shim_fds 1",
		"the monitor's name":     "kata_monitor_scrape_count 1",
		"another's name":         "up 1",
		"another pod":            `kata_guest_load{sandbox_id="other"} 1`,
		"another pod's name":     `kata_guest_load{cri_name="other"} 1`,
		"another job":            `kata_guest_load{job="other"} 1`,
		"a histogram":            "# TYPE kata_guest_x histogram",
		"words for the terminal": "kata_guest_load{item=\"\x1b[2J\"} 1",
		"a long line":            "kata_guest_load{item=\"" + strings.Repeat("x", maxGuestLine) + "\"} 1",
		"a value that is none":   "kata_guest_load one",
	} {
		families, dropped := Guest(l + "\nkata_guest_load{item=\"load1\"} 0.5\n")
		if want := "# TYPE kata_guest_load gauge\nkata_guest_load{item=\"load1\"} 0.5\n"; dropped != 1 ||
			text(families...) != want {
			t.Errorf("%s: %d dropped, %s", what, dropped, text(families...))
		}
	}
	kinds, _ := Guest("# TYPE kata_guest_a counter\nkata_guest_a 1\nkata_agent_scrape_count 1\n")
	if got := text(kinds...); !strings.Contains(got, "# TYPE kata_guest_a gauge\n") ||
		!strings.Contains(got, "# TYPE kata_agent_scrape_count counter\n") {
		t.Errorf("a guest says of what kind a number is: %s", got)
	}
	families, dropped := Guest(many.String())
	if dropped < 2*maxGuestSamples || len(families) != 1 || len(families[0].Samples) > maxGuestSamples {
		t.Errorf("%d families, %d dropped", len(families), dropped)
	}
}

func TestAPodIsWhatItsRecordSays(t *testing.T) {
	self := record.ProcessOf(os.Getpid())
	r := &record.Record{ID: "one", State: record.Running, Shim: self, QEMU: self, Containers: []string{"a", "b"},
		Guest: `/srv/a"b\c` + "\n"}
	got := text(Pod(r)...)
	for _, want := range []string{"katabuild_pod_up 1", "katabuild_pod_attested 0", "katabuild_pod_containers 2",
		`katabuild_pod_info{sandbox="one",guest="a\"b\\c\n",verdict="-"} 1`} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	r.Verdict = &verdict.Verdict{Guest: "g", Result: verdict.Attested}
	r.QEMU.Start++
	if got := text(Pod(r)...); !strings.Contains(got, "katabuild_pod_attested 1\n") ||
		!strings.Contains(got, "katabuild_pod_up 0\n") {
		t.Error(got)
	}
}
