package qemu

import (
	"github.com/katabuild/katabuild/runtime/child"
	"github.com/katabuild/katabuild/runtime/hypervisor/accel"
	"golang.org/x/sys/unix"
)

// ninePRights are the capabilities with which QEMU serves a folder by 9p: it makes the guest's files with the owners
// and modes that the guest says. capabilities(7).
var ninePRights = []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_MKNOD,
	unix.CAP_SETFCAP}

// Isolation is that of a QEMU that root starts. All that it needs of the host comes as open files, but what is named
// here.
func Isolation(q Config) *child.Isolation {
	w := &child.Isolation{}
	if q.Accel == accel.KVM {
		w.Devices = append(w.Devices, accel.Device)
	}
	devices, folders := q.passedFiles()
	w.Devices, w.ReadOnly = append(w.Devices, devices...), folders
	for _, f := range q.FileSystems {
		if !f.VirtioFS.Set() {
			w.Folder, w.Capabilities, w.Why = f.Path, ninePRights,
				"by 9p QEMU makes files of any user, which root alone may"
		}
	}
	return w
}
