package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatAGroupUsesIsReadInBothVersions(t *testing.T) {
	want := Usage{CPU: 3 * time.Millisecond, Memory: 4096, InactiveFile: 11, Anonymous: 12, Faults: 13, MajorFaults: 14,
		Processes: 5}
	for version, dirs := range map[string]map[string]map[string]string{
		"version 2": {"all": {
			"cpu.stat": "usage_usec 3000\nuser_usec 1\n", "memory.current": "4096\n", "pids.current": "5\n",
			"memory.stat": "anon 12\ninactive_file 11\npgfault 13\npgmajfault 14\nnew one two\n",
		}},
		"version 1": {
			"cpuacct": {"cpuacct.usage": "3000000\n", "cpu.stat": "nr_periods 0\n"},
			"memory": {"memory.usage_in_bytes": "4096\n", "memory.stat": "inactive_file 1\npgfault 1\n" +
				"total_inactive_file 11\ntotal_rss 12\ntotal_pgfault 13\ntotal_pgmajfault 14\n"},
			"pids": {"pids.current": "5\n"},
		},
	} {
		t.Run(version, func(t *testing.T) {
			top := t.TempDir()
			g := Group{Dirs: []string{top}}
			for name, files := range dirs {
				d := filepath.Join(top, name, prefix+"p")
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
				for f, text := range files {
					if err := os.WriteFile(filepath.Join(d, f), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				g.Dirs = append(g.Dirs, d)
			}
			if got, ok := g.Usage(); !ok || got != want {
				t.Errorf("%+v, %v; want %+v", got, ok, want)
			}
		})
	}
	if _, ok := (&Group{Dirs: []string{t.TempDir()}}).Usage(); ok {
		t.Error("a folder of others is taken for the pod's")
	}
}
