package launch

import (
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/katabuild/katabuild/agent/container/stage"
	"golang.org/x/sys/unix"
)

// highFD is above all files that a stage is started with, which take the place of whatever has their numbers.
const highFD = 100

// Sealed is the program to execute as a stage: itself where nobody can write to it, and else a copy that cannot be
// changed. A process in a container may find its way to the stage's program; CVE-2019-5736.
func Sealed(self string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(self, &st); err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return self, nil
	}
	in, err := os.Open(self)
	if err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	defer in.Close()
	fd, err := unix.MemfdCreate(stage.Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there is no MFD_EXEC, and every memfd can be executed
		fd, err = unix.MemfdCreate(stage.Name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return "", fmt.Errorf("program of the stage: make a copy: %w", err)
	}
	out := os.NewFile(uintptr(fd), stage.Name)
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return "", fmt.Errorf("program of the stage: copy: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(out.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return "", fmt.Errorf("program of the stage: seal: %w", err)
	}
	high, err := unix.FcntlInt(out.Fd(), unix.F_DUPFD_CLOEXEC, highFD)
	if err != nil {
		return "", fmt.Errorf("program of the stage: %w", err)
	}
	return "/proc/self/fd/" + strconv.Itoa(high), nil
}
