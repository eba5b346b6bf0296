// Command core is the init of a guest that proves that compiled BPF programs adapt themselves to its kernel by the
// kernel's own types. It says on the console how that went, and ends the guest.
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// object is core.c, compiled.
//
//go:embed core.o
var object []byte

func main() {
	if at, err := prove(); err != nil {
		fmt.Println("core: failed:", err)
	} else {
		fmt.Println("core: task_struct.pid is at", at)
	}
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART) // QEMU ends where it may not start again
}

// prove loads the program, runs it, and compares what it returns with what the kernel's types say.
func prove() (uint32, error) {
	for _, kind := range []string{"sysfs", "proc"} {
		at := map[string]string{"sysfs": "/sys", "proc": "/proc"}[kind]
		if err := errors.Join(ignoreExist(syscall.Mkdir(at, 0o755)), syscall.Mount(kind, at, kind, 0, "")); err != nil {
			return 0, fmt.Errorf("mount %s: %w", kind, err)
		}
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return 0, err
	}
	programs, err := ebpf.NewCollection(spec)
	if err != nil {
		return 0, err
	}
	defer programs.Close()
	got, _, err := programs.Programs["offset"].Test(make([]byte, 64))
	if err != nil {
		return 0, err
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, err
	}
	var task *btf.Struct
	if err := kernel.TypeByName("task_struct", &task); err != nil {
		return 0, err
	}
	for _, m := range task.Members {
		if m.Name != "pid" {
			continue
		}
		if want := m.Offset.Bytes(); got != want || want == 0 {
			return 0, fmt.Errorf("the program has the field at %d, the kernel at %d", got, want)
		}
		return got, nil
	}
	return 0, errors.New("a task has no pid")
}

func ignoreExist(err error) error {
	if errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return err
}
