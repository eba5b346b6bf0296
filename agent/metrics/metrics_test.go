package metrics

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	helpLine   = regexp.MustCompile(`^# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)$`)
	typeLine   = regexp.MustCompile(`^# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	labelText  = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(,|$)`)
)

// judge reads a text strictly: each family once, help and type before its samples, no sample twice. It returns values
// by name and labels.
func judge(text string) (map[string]float64, error) {
	out := map[string]float64{}
	done := map[string]bool{}
	helped, current := "", ""
	if text != "" && !strings.HasSuffix(text, "\n") {
		return nil, errors.New("the last line has no end")
	}
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		bad := func(why string) error { return fmt.Errorf("line %d, %q: %s", n+1, line, why) }
		if m := helpLine.FindStringSubmatch(line); m != nil {
			if done[m[1]] {
				return nil, bad("a family twice")
			}
			helped, current = m[1], ""
			done[m[1]] = true
			continue
		}
		if m := typeLine.FindStringSubmatch(line); m != nil {
			if m[1] != helped || current != "" {
				return nil, bad("a type without its help")
			}
			current = m[1]
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil || m[1] != current {
			return nil, bad("not a sample of the family above")
		}
		var labels []string
		for rest := m[2]; rest != ""; {
			l := labelText.FindStringSubmatch(rest)
			if l == nil {
				return nil, bad("labels")
			}
			value := strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(l[2])
			labels = append(labels, l[1]+"="+value)
			rest = rest[len(l[0]):]
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, bad("value")
		}
		key := strings.Join(append([]string{m[1]}, labels...), " ")
		if _, twice := out[key]; twice {
			return nil, bad("a sample twice")
		}
		out[key] = v
	}
	return out, nil
}

// fixture is the proc of a guest, of files of a running Linux 6.18 cut short.
var fixture = map[string]string{
	"self/status": "Name:\tkata-agent\nState:\tS (sleeping)\nVmPeak:\t 1234 kB\nVmRSS:\t    5120 " +
		"kB\nHugetlbPages:\t       0 kB\nThreads:\t7\nvoluntary_ctxt_switches:\t42\n",
	"self/stat": "1 (a) b (c) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 7 0 3 1234567168 1250 " +
		"18446744073709551615 1 1\n",
	"self/io": "rchar: 100\nwchar: 200\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: " +
		"6\ncancelled_write_bytes: 7\n",
	"loadavg": "0.07 0.10 1.32 2/345 6789\n",
	"stat":    "cpu  10 1 20 300 4 5 6 7 8 9\ncpu0 10 1 20 300 4 5 6 7 8 9\nintr 123 4 5\nctxt 99\nbtime 1\n",
	"vmstat":  "nr_free_pages 1000\npgfault 2000\n",
	"net/dev": "Inter-|   Receive                                                |  Transmit\n face |bytes    " +
		"packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier " +
		"compressed\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n    lo:       0       0    0    0    0     0   " +
		"       0         0        0       0    0    0    0     0       0          0\n",
	"diskstats": " 254       0 vda 100 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n 254       1 vda1 1 1 1 1 1 1 1 1 " +
		"1 1 1\n",
	"meminfo": "MemTotal:        2048 kB\nMemFree:          1024 kB\nActive(anon):       4 kB\nHugePages_Total: " +
		"      3\nHugepagesize:       2048 kB\nDirectMap4k:       64 kB\n",
	"self/mounts": "/dev/vda1 / ext4 ro 0 0\nproc /proc proc rw 0 0\ntmpfs /run/with\\040space\\134and\"quote tmpfs " +
		"rw 0 0\ntmpfs /broken tmpfs rw 0 0\n",
}

func guest(t *testing.T, files map[string]string) *Collector {
	t.Helper()
	root := t.TempDir()
	for f, text := range files {
		p := filepath.Join(root, "proc", f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Collector{Root: root, Statfs: func(path string) (FileSystem, error) {
		if path == "/broken" {
			return FileSystem{}, errors.New("broken")
		}
		return FileSystem{100, 40, 30, 10, 9}, nil
	}}
}

func TestEveryFamilyHasItsNumbers(t *testing.T) {
	c := guest(t, fixture)
	text, err := c.Collect()
	if err == nil || err.Error() != "metrics of self/mounts: /broken: broken" {
		t.Errorf("got %v", err)
	}
	got, err := judge(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for key, want := range map[string]float64{
		"kata_agent_scrape_count": 1,
		"kata_agent_threads":      7,
		"kata_agent_total_time":   2,
		"kata_agent_total_vm":     1234567168,
		"kata_agent_total_rss": float64(
			1250 * os.Getpagesize()),
		"kata_agent_proc_status item=vmrss":                                                     5120 * 1024,
		"kata_agent_proc_status item=voluntary_ctxt_switches":                                   42,
		"kata_agent_proc_stat item=cstime":                                                      8,
		"kata_agent_io_stat item=cancelled_write_bytes":                                         7,
		"kata_guest_load item=load15":                                                           1.32,
		"kata_guest_tasks item=cur":                                                             2,
		"kata_guest_tasks item=max":                                                             345,
		"kata_guest_cpu_time cpu=total item=idle":                                               300,
		"kata_guest_cpu_time cpu=0 item=guest_nice":                                             9,
		"kata_guest_vm_stat item=pgfault":                                                       2000,
		"kata_guest_netdev_stat interface=eth0 item=recv_bytes":                                 1,
		"kata_guest_netdev_stat interface=eth0 item=sent_carrier":                               15,
		"kata_guest_diskstat disk=vda item=reads":                                               100,
		"kata_guest_diskstat disk=vda item=time_flushing":                                       16,
		"kata_guest_diskstat disk=vda1 item=in_progress":                                        1,
		"kata_guest_meminfo item=mem_total":                                                     2048 * 1024,
		"kata_guest_meminfo item=active_anon":                                                   4096,
		"kata_guest_meminfo item=huge_pages_total":                                              3,
		"kata_guest_filesystem_bytes mount=/ device=/dev/vda1 item=used":                        60,
		"kata_guest_filesystem_inodes mount=/run/with space\\and\"quote device=tmpfs item=free": 9,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s is %v (%v), want %v", key, v, ok, want)
		}
	}
	again, _ := c.Collect()
	if strings.Replace(again, "kata_agent_scrape_count 2", "kata_agent_scrape_count 1", 1) != text {
		t.Error("the same files give another text")
	}
}

func TestAStrangeFileCostsOnlyItsOwnNumbers(t *testing.T) {
	for file := range fixture {
		for how, text := range map[string]string{"missing": "", "strange": "x y z\nq: -1\n\x00) S 1\n"} {
			files := map[string]string{}
			for f, s := range fixture {
				files[f] = s
			}
			delete(files, "self/mounts")
			if files[file] = text; text == "" {
				delete(files, file)
			}
			out, err := guest(t, files).Collect()
			if text == "" && err == nil || err != nil && !strings.Contains(err.Error(), "metrics of") {
				t.Errorf("%s %s: %v", file, how, err)
			}
			got, err := judge(out)
			if err != nil {
				t.Fatalf("%s %s: %v", file, how, err)
			}
			if _, ok := got["kata_agent_scrape_count"]; !ok || len(got) < 10 {
				t.Errorf("%s %s: only %d numbers", file, how, len(got))
			}
		}
	}
}

func TestThisMachineIsReadWithoutComplaint(t *testing.T) {
	c := &Collector{Statfs: func(string) (FileSystem, error) { return FileSystem{}, nil }}
	text, err := c.Collect()
	if err != nil {
		t.Error(err)
	}
	got, err := judge(text)
	if err != nil || got["kata_agent_total_rss"] < 1<<20 {
		t.Errorf("%d numbers, %v", len(got), err)
	}
}

func FuzzSources(f *testing.F) {
	for i, s := range sources {
		f.Add(i, fixture[s.file])
	}
	f.Fuzz(func(t *testing.T, i int, text string) {
		c := &Collector{Statfs: func(string) (FileSystem, error) { return FileSystem{1, 2, 3, 4, 5}, nil }}
		families, err := sources[uint(i)%uint(len(sources))].read(c, text)
		if err != nil {
			return
		}
		if out := write(families); out != "" {
			if _, err := judge(out); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	})
}
