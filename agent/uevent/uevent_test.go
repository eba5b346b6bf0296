package uevent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const disk = "add@/devices/pci0000:00/0000:00:02.0/virtio0/block/vda\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/" +
	"0000:00:02.0/virtio0/block/vda\x00" +
	"SUBSYSTEM=block\x00MAJOR=254\x00MINOR=0\x00DEVNAME=vda\x00DEVTYPE=disk\x00DISKSEQ=7\x00SEQNUM=1234\x00"

func TestAMessageOfTheKernelIsRead(t *testing.T) {
	e, err := parse([]byte(disk))
	if err != nil {
		t.Fatal(err)
	}
	want := Event{Action: add, DevPath: "/devices/pci0000:00/0000:00:02.0/virtio0/block/vda", Subsystem: "block",
		DevName: "vda", Major: 254}
	if e != want {
		t.Errorf("got %+v, want %+v", e, want)
	}
}

func TestWhatTheKernelWouldNotSayIsRefused(t *testing.T) {
	for name, s := range map[string]string{
		"nothing":                  "",
		"udev's own":               "libudev\x00\xfe\xed\xca\xfe",
		"no path":                  "add@\x00",
		"a path that is relative":  "add@devices\x00",
		"no action":                "@/devices\x00",
		"no NUL":                   "add@/devices",
		"a word without a value":   "add@/devices\x00SUBSYSTEM\x00",
		"two actions":              "add@/devices\x00ACTION=remove\x00",
		"two paths":                "add@/devices\x00DEVPATH=/module\x00",
		"a number that is none":    "add@/devices\x00MAJOR=x\x00",
		"a number below 0":         "add@/devices\x00MINOR=-1\x00",
		"more than a message is":   "add@/" + strings.Repeat("a", maxMessage) + "\x00",
		"an empty word in between": "add@/devices\x00\x00SUBSYSTEM=block\x00",
	} {
		if e, err := parse([]byte(s)); err == nil {
			t.Errorf("%s is read as %+v", name, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(disk))
	f.Add([]byte("move@/devices/net/eth0\x00DEVPATH_OLD=/devices/net/tmp\x00SUBSYSTEM=net\x00"))
	f.Add([]byte("libudev\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parse(b)
		if err == nil && (e.Action == "" || !strings.HasPrefix(e.DevPath, "/") || e.Major < 0 || e.Minor < 0) {
			t.Fatalf("%q is read as %+v", b, e)
		}
	})
}

// seen is the last event of a device that is still there.
func seen(l *Listener, devPath string) (Event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.seen[devPath]
	return e, ok
}

func TestADeviceIsForgottenWhenItGoes(t *testing.T) {
	var l Listener
	l.tell(Event{Action: add, DevPath: "/a"})
	l.tell(Event{Action: add, DevPath: "/old"})
	l.tell(Event{Action: move, DevPath: "/new", OldPath: "/old"})
	for path, want := range map[string]bool{"/a": true, "/old": false, "/new": true} {
		if _, got := seen(&l, path); got != want {
			t.Errorf("%s seen: %v", path, got)
		}
	}
	l.tell(Event{Action: remove, DevPath: "/a"})
	if _, ok := seen(&l, "/a"); ok {
		t.Error("a removed device is still seen")
	}
	l.Timeout = time.Millisecond
	l.Root = t.TempDir()
	if got, err := l.Wait(t.Context(), Match{What: "/a",
		Event: func(e Event) bool { return e.DevPath == "/a" }}); err == nil {
		t.Errorf("a wait found the removed device %s", got)
	}
}

func TestAWaitEndsWithTheDevice(t *testing.T) {
	l := Listener{Root: t.TempDir(), Timeout: 5 * time.Second}
	byName := Match{What: "b", Event: func(e Event) bool { return e.DevPath == "/b" }}
	l.tell(Event{Action: add, DevPath: "/b"})
	if got, err := l.Wait(t.Context(), byName); got != "/b" || err != nil {
		t.Errorf("a device that came before: %q, %v", got, err)
	}
	if got, err := l.Wait(t.Context(), Match{What: "sysfs", Look: func() (string, error) {
		return "there",
			nil
	}}); got != "there" || err != nil {
		t.Errorf("a device in sysfs: %q, %v", got, err)
	}
	l.tell(Event{Action: remove, DevPath: "/b"})
	looked := make(chan struct{}, 1)
	byName.Look = func() (string, error) {
		select {
		case looked <- struct{}{}:
		default:
		}
		return "", nil
	}
	go func() {
		<-looked
		l.tell(Event{Action: add, DevPath: "/other"})
		l.tell(Event{Action: add, DevPath: "/b"})
	}()
	begin := time.Now()
	if got, err := l.Wait(t.Context(), byName); got != "/b" || err != nil {
		t.Errorf("a device that came while waiting: %q, %v", got, err)
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("the event took %s to arrive", d)
	}
}

func TestALostMessageDoesNotLoseTheDevice(t *testing.T) {
	l := Listener{Root: t.TempDir(), Timeout: 5 * time.Second}
	var n atomic.Int32
	got, err := l.Wait(t.Context(), Match{What: "x", Look: func() (string, error) {
		if n.Add(1) > 2 {
			return "x", nil
		}
		return "", nil
	}})
	if got != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestThePCIBusIsRescannedOnceBeforeGivingUp(t *testing.T) {
	root := t.TempDir()
	rescan := filepath.Join(root, "sys/bus/pci/rescan")
	if err := os.MkdirAll(filepath.Dir(rescan), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rescan, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := Listener{Root: root, Timeout: 10 * time.Millisecond}
	look := func() (string, error) {
		if b, err := os.ReadFile(rescan); err != nil || string(b) == "1" {
			return "found", err
		}
		return "", nil
	}
	if got, err := l.Wait(t.Context(), Match{What: "x", Look: look}); got != "found" || err != nil {
		t.Errorf("after a rescan: %q, %v", got, err)
	}
	_, err := l.Wait(t.Context(), Match{What: "the disk at PCI path 02/01", Look: func() (string, error) {
		return "",
			nil
	}})
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	for _, word := range []string{"the disk at PCI path 02/01", "1.01s"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestAWaitEndsWithItsContextAndHoldsNoLock(t *testing.T) {
	l := Listener{Root: t.TempDir(), Timeout: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := l.Wait(ctx, Match{What: "x", Look: func() (string, error) { return "", nil }})
		done <- err
	}()
	// More events than a waiter has room for, and other waits, all pass.
	for range 200 {
		l.tell(Event{Action: add, DevPath: "/y"})
	}
	if got, err := l.Wait(t.Context(), Match{What: "y",
		Event: func(e Event) bool { return e.DevPath == "/y" }}); got != "/y" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(l.wakes) != 0 {
		t.Errorf("%d waits are still registered", len(l.wakes))
	}
}

func TestOnlyTheKernelIsHeard(t *testing.T) {
	l := Listener{Root: "/"}
	ctx, cancel := context.WithCancel(t.Context())
	heard, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- l.Run(ctx, func() { close(heard) }) }()
	select {
	case <-heard:
	case err := <-done:
		t.Fatal(err)
	}
	fake := []byte("add@/devices/fake\x00ACTION=add\x00DEVPATH=/devices/fake\x00SUBSYSTEM=block\x00")
	if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC,
		unix.NETLINK_KOBJECT_UEVENT); err != nil {
		t.Error(err)
	} else {
		defer unix.Close(fd)
		// Refused to a plain user; where it is allowed the message must not count.
		_ = unix.Sendto(fd, fake, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup})
	}
	time.Sleep(20 * time.Millisecond) // in which nothing may happen
	if _, ok := seen(&l, "/devices/fake"); ok {
		t.Error("a message of a process counts as the kernel's")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the end of a listener: %v", err)
	}
}
