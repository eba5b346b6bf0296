package container

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExecsInherit(t *testing.T) {
	score := 5
	from := &specs.Process{Capabilities: &specs.LinuxCapabilities{}, OOMScoreAdj: &score, NoNewPrivileges: true,
		Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}}}
	got := inherit(specs.Process{Args: []string{"x"}}, from)
	if got.Capabilities != from.Capabilities || !got.NoNewPrivileges || len(got.Rlimits) != 1 ||
		got.OOMScoreAdj != &score || got.Args[0] != "x" {
		t.Errorf("%+v", got)
	}
	own := &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}
	if got := inherit(specs.Process{Capabilities: own}, from); got.Capabilities != own {
		t.Error("its own capabilities are lost")
	}
}

func TestSignalsThatAreHandled(t *testing.T) {
	const status = "Name:\tx\nSigBlk:\t0000000000010000\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000004000\n"
	for sig, want := range map[unix.Signal]bool{unix.SIGTERM: true, unix.SIGQUIT: true, unix.SIGCHLD: true,
		unix.SIGINT: false} {
		if got := handlesIn(status, sig); got != want {
			t.Errorf("%s: %v", unix.SignalName(sig), got)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("Name:\tx\nSigCgt:\t0000000000004000\n", []byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, s string, b []byte) {
		handlesIn(s, unix.SIGTERM)
		watches(b)
	})
}

func TestIDsAreNamesOfFolders(t *testing.T) {
	for id, want := range map[string]bool{
		"abc": true, "0_a.b-c": true, strings.Repeat("x", 255): true, "": false, ".": false, "..": false, "-x": false,
		"a/b": false, "shared": false, "sandbox": false, strings.Repeat("x", 256): false, "ä": false,
	} {
		if got := validID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}
