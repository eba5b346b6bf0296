package child

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/katabuild/katabuild/internal/testenv"
)

func TestAProgramInheritsFilesAndItsFirstWordsAreInItsError(t *testing.T) {
	testenv.Require(t, testenv.Tool("sh"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := Start("shell", []string{"/bin/sh", "-c", "echo to three >&3; echo the reason >&2; exit 3"}, []*os.File{w})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	b := make([]byte, 100)
	n, err := r.Read(b)
	if err != nil || string(b[:n]) != "to three\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
	<-p.Done()
	if err := p.ExitError(); err == nil || err.Error() != "shell: exit status 3: the reason" {
		t.Error(err)
	}
	if err := p.Stop(t.Context(), nil); err != nil {
		t.Error("stop after the end:", err)
	}
}

func TestStopAsksFirstAndThenKills(t *testing.T) {
	testenv.Require(t, testenv.Tool("sleep"))
	p, err := Start("sleeper", []string{"sleep", "600"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx, func(context.Context) error { asked = true; return nil }); err != nil || !asked {
		t.Error(err, asked)
	}
	if err := p.ExitError(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Error(err)
	}
}

func TestAMissingProgramSaysWhichPackageHasIt(t *testing.T) {
	_, err := Start("QEMU", []string{"/nowhere/qemu-system-x86_64"}, nil)
	m, ok := errors.AsType[*MissingError](err)
	if !ok || m.Package() != "qemu-system-x86" || !strings.Contains(err.Error(), "Debian package qemu-system-x86") {
		t.Error(err)
	}
}
