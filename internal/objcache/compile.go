package objcache

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// socketVariable says where Serve listens.
const socketVariable = "KATABUILD_OBJECTS"

// Compile is a compiler that asks Serve first. args are the process's, its name first; it is the name of a compiler,
// behind this one in $PATH. It returns an exit code, or does not return, since the process has become the compiler.
func Compile(args, env []string, stderr io.Writer) int {
	name := filepath.Base(args[0])
	socket, rest, dirs := "", make([]string, 0, len(env)), ""
	var q question
	odd := false
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		switch {
		case k == socketVariable:
			socket = v
			continue
		case k == "PATH":
			_, dirs, _ = strings.Cut(v, ":") // the first folder is that of this program
			kv = "PATH=" + dirs
		case contains(messageEnv(), k):
			q.env = append(q.env, kv)
		case contains(refusedEnv(), k):
			odd = true
		}
		rest = append(rest, kv)
	}
	program := lookUp(dirs, name)
	if program == "" {
		stderr.Write([]byte(name + ": not found in " + dirs + "\n"))
		return 127
	}
	become := func() int {
		err := syscall.Exec(program, args, rest)
		stderr.Write([]byte(program + ": " + err.Error() + "\n"))
		return 127
	}
	q.compiler, q.args = name, args[1:]
	if _, ok := parse(name, q.args); !ok || odd || socket == "" || strings.Contains(strings.Join(args, ""), "\x00") {
		return become()
	}
	dir, err := syscall.Getwd()
	if err != nil {
		return become()
	}
	q.dir = dir
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return become()
	}
	if writeFrame(conn, q.encode()) != nil {
		return become()
	}
	answer, err := readFrame(conn)
	if err != nil || len(answer) == 0 {
		return become()
	}
	if answer[0] == hit {
		stderr.Write(answer[1:])
		return 0
	}
	return compile(conn, program, args, rest, stderr)
}

// compile runs the compiler itself, and tells Serve of it.
func compile(conn net.Conn, program string, args, env []string, stderr io.Writer) int {
	var said bytes.Buffer
	cmd := exec.Cmd{Path: program, Args: args, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: &said}
	err := cmd.Run()
	stderr.Write(said.Bytes())
	st := cmd.ProcessState
	if st == nil {
		stderr.Write([]byte(program + ": " + err.Error() + "\n"))
		return 127
	}
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	if code := st.ExitCode(); code != 0 || err != nil {
		return max(1, code)
	}
	cpu := uint64((st.UserTime() + st.SystemTime()) / time.Microsecond)
	if writeFrame(conn, append(binary.LittleEndian.AppendUint64(nil, cpu), said.Bytes()...)) == nil {
		_, _ = readFrame(conn) // it has read what the compiler left, or is gone
	}
	return 0
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// lookUp finds a program in a list of folders.
func lookUp(dirs, name string) string {
	for dir := range strings.SplitSeq(dirs, ":") {
		var st syscall.Stat_t
		p := dir + "/" + name
		if dir != "" && syscall.Stat(p, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG &&
			st.Mode&0o111 != 0 {
			return p
		}
	}
	return ""
}
