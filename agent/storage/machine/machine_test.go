package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func files(t *testing.T, all map[string]string) Machine {
	t.Helper()
	root := t.TempDir()
	for f, text := range all {
		p := filepath.Join(root, f)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Root: root, Poll: 200 * time.Millisecond}
}

func read(t *testing.T, m Machine, f string) string {
	t.Helper()
	b, err := os.ReadFile(m.path(f))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProcessorsAndMemoryAreTurnedOn(t *testing.T) {
	const cpu, memory = "sys/devices/system/cpu/", "sys/devices/system/memory/"
	m := files(t, map[string]string{
		cpu + "cpu0/topology/x": "", cpu + "cpu1/online": "0\n", cpu + "cpu2/online": "1\n",
		cpu + "cpu10/online": "0", cpu + "cpufreq/x": "", cpu + "online": "0-1",
		memory + "memory0/online": "1\n", memory + "memory32/online": "0\n", memory + "block_size_bytes": "8000000\n",
		memory + "probe": "",
	})
	if err := m.OnlineCPUMem(t.Context(), 3, true); err != nil {
		t.Fatal(err)
	}
	if got := read(t, m, cpu+"cpu1/online") + read(t, m, cpu+"cpu10/online"); got != "10" {
		t.Errorf("three of four are wanted; cpu1 and cpu10 are %q", got)
	}
	if got := read(t, m, memory+"memory32/online"); got != "0\n" {
		t.Errorf("memory was not asked for, and is %q", got)
	}
	if err := m.OnlineCPUMem(t.Context(), 0, false); err != nil {
		t.Fatal(err)
	}
	if got := read(t, m, cpu+"cpu10/online") + read(t, m, memory+"memory32/online"); got != "11" {
		t.Errorf("all are wanted: %q", got)
	}
	synctest.Test(t, func(t *testing.T) {
		// One that is plugged in while we wait.
		go func() {
			time.Sleep(pollEvery * 3 / 2)
			p := m.path(cpu + "cpu11")
			if err := errors.Join(os.Mkdir(p, 0o755), os.WriteFile(p+"/online", []byte("0"), 0o600)); err != nil {
				t.Error(err)
			}
		}()
		began := time.Now()
		if err := m.OnlineCPUMem(t.Context(), 5, true); err != nil || time.Since(began) != 2*pollEvery {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		err := m.OnlineCPUMem(t.Context(), 6, true)
		if !errors.Is(err, errTimeout) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(),
			"5 of 6 processors") {
			t.Errorf("got %v", err)
		}
	})
	if err := m.MemHotplugByProbe([]uint64{0x1_0000_0000}); err != nil ||
		read(t, m, memory+"probe") != "0x100000000" {
		t.Errorf("probe has %q, %v", read(t, m, memory+"probe"), err)
	}
}

func TestRandomnessAndTimeAreChecked(t *testing.T) {
	b := entropy([]byte("abc"))
	if binary.NativeEndian.Uint32(b) != 24 || binary.NativeEndian.Uint32(b[4:]) != 3 || string(b[8:]) != "abc" {
		t.Errorf("rand_pool_info %x", b)
	}
	m := files(t, map[string]string{"dev/urandom": ""})
	if err := m.ReseedRandomDev(nil); err == nil || strings.Contains(err.Error(), "ioctl") {
		t.Errorf("no randomness: %v", err)
	}
	if err := m.ReseedRandomDev([]byte("abc")); err == nil {
		t.Error("a file that is no random device took randomness")
	}
	for _, c := range [][2]int64{{-1, 0}, {0, -1}, {0, 1e6}, {1 << 40, 0}} {
		if err := m.SetGuestDateTime(c[0], c[1]); err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("time %v: %v", c, err)
		}
	}
}
