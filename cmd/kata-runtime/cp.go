package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/guestcopy"
)

func (a *app) cpCmd() *cobra.Command {
	var port uint32
	var limits guestcopy.Limits
	c := &cobra.Command{
		Use: "cp SOURCE DESTINATION", Args: cobra.ExactArgs(2), Short: "copy files between this host and a pod's guest",
		Long: `cp copies a file, a link, or a folder with all that is in it. One of both places is in a guest:

  PATH                  on this host; one with a colon in it begins with ./
  POD:PATH              in the guest of a pod, outside of its containers
  CONTAINER@POD:PATH    in a container of the pod, as the container sees it

A destination that is a folder gets the source into it; any other is the source's new name. Modes, times and links are
kept; what comes from a guest belongs to you, without the bits that give rights away (setuid, setgid), and what goes
there to root. Devices, pipes and sockets are not copied.

It goes through the debug console, as exec does: the pod must have been started with debug_console_enabled = true in
[agent.kata], and the guest needs a shell, tar and base64.

A guest may send anything. Nothing is made outside of the destination: names with .. or a slash at their front, files
behind links, devices, and more than --max-bytes or --max-files are refused by name.`,
		Example: `  kata-runtime cp POD:/var/log/messages .
  kata-runtime cp rules.conf CONTAINER@POD:/etc/`,
	}
	c.Flags().Uint32VarP(&port, "kata-debug-port", "p", agentapi.DebugConsolePort, "vsock `port` of the debug console")
	c.Flags().Int64Var(&limits.Bytes, "max-bytes", guestcopy.DefaultBytes, "how many `bytes` a guest may send")
	c.Flags().IntVar(&limits.Entries, "max-files", guestcopy.DefaultEntries, "how many `files` a guest may send")
	c.RunE = func(c *cobra.Command, args []string) error {
		from, err := guestcopy.ParsePlace(args[0])
		if err != nil {
			return &usage.Error{Err: err}
		}
		to, err := guestcopy.ParsePlace(args[1])
		if err != nil {
			return &usage.Error{Err: err}
		}
		if (from.Pod == "") == (to.Pod == "") {
			return &usage.Error{Err: errors.New("one of both places is to be in a guest, POD:PATH; " +
				"see: kata-runtime cp --help")}
		}
		if limits.Bytes <= 0 || limits.Entries <= 0 {
			return &usage.Error{Err: errors.New("--max-bytes and --max-files want more than 0")}
		}
		k := copying{app: a, port: port}
		if from.Pod != "" {
			return k.fetch(c.Context(), from, to.Path, limits)
		}
		return k.send(c.Context(), from.Path, to)
	}
	return c
}

// copying is one way through a pod's debug console.
type copying struct {
	*app
	port  uint32
	bytes int64
	told  time.Time
}

// Exit codes of the scripts below; others are tar's.
var cpReasons = map[int]string{
	91: "no process of that container runs",
	92: "a symbolic link is in the path, which could lead out of the container",
	93: "the guest lacks tar or base64",
	94: "no such file or folder",
	95: "the folder for it is not there",
}

// The scripts get the container's id, or nothing, the folder and the name. A process of the container is known by its
// control group, and its root is the container's; a link in the path would be followed from the guest's root, and is
// refused. What is typed waits for a line that is longer than the mark behind a command's output, which is held back.
const (
	cpFind = `p=; for t in tar base64; do command -v $t >/dev/null||exit 93;done
if [ "$1" ];then for q in /proc/[0-9]*;do while read -r l;do case "$l." in *[!A-Za-z0-9_]"$1"[!A-Za-z0-9_-]*) p=$q/root
break 2;;esac;done<$q/cgroup;done 2>/dev/null
[ "$p" ]||exit 91
r=$p;o=$IFS;IFS=/;set -f
for c in $2;do [ "$c" ]||continue;r=$r/$c;[ -L "$r" ]&&exit 92;done;IFS=$o;set +f;fi
`
	cpFetch = cpFind + `[ -e "$p$2/$3" ]||[ -L "$p$2/$3" ]||exit 94
exec 4>&1
s=$({ { tar -C "$p$2/" -cf - "./$3" 2>/dev/null;echo $?>&3;}|base64>&4;} 3>&1)
exit $s`
	cpLook = cpFind + `if [ "$1" ]&&[ -L "$p$2/$3" ];then exit 92;fi
if [ -d "$p$2/$3" ];then echo folder;elif [ -d "$p$2/" ];then echo name;else exit 95;fi`
	cpSend = cpFind + `stty -echo 2>/dev/null
printf '%064d\n' 0
base64 -d|tar -C "$p$2/" -xpf -`
)

// run has a shell in the guest run one of the scripts. out gets what it prints; typed, where it is not nil, gets the
// connection once the script has printed something.
func (k *copying) run(ctx context.Context, pod, script string, args []string, out io.Writer,
	typed func(io.Writer) error) error {
	nonce := rand.Text()
	line, err := commandLine(nonce, append([]string{"sh", "-c", script, "sh"}, args...))
	if err != nil {
		return err
	}
	if r, err := k.record(pod); err == nil && consoleOff(r.Command, k.port) {
		return &refusedError{id: pod, port: k.port, console: true}
	}
	conn, err := k.dial(ctx, pod, k.port)
	if e, ok := errors.AsType[*refusedError](err); ok {
		e.console = true
	}
	if err != nil {
		return err
	}
	defer conn.Close() // whatever was said has been read
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, line); err != nil {
		return fmt.Errorf("send to the guest: %w", err)
	}
	sent := make(chan error, 1)
	if typed == nil {
		sent <- nil
	} else {
		out = &whenBegun{w: out, deed: func() { go func() { sent <- typed(conn) }() }}
	}
	code, err := commandOutput(out, conn, nonce)
	if ctx.Err() != nil {
		return errors.New("cp: interrupted")
	}
	switch reason, known := cpReasons[code]; {
	case err != nil:
		return err
	case known:
		return fmt.Errorf("pod %s: %s", pod, reason)
	case code != 0:
		return fmt.Errorf("pod %s: tar in the guest ended with %d", pod, code)
	}
	return <-sent
}

// whenBegun does a deed before the first byte is written.
type whenBegun struct {
	w    io.Writer
	deed func()
}

// Write implements io.Writer.
func (s *whenBegun) Write(b []byte) (int, error) {
	if s.deed != nil && len(b) > 0 {
		s.deed()
		s.deed = nil
	}
	return s.w.Write(b)
}

// fetch copies from a guest.
func (k *copying) fetch(ctx context.Context, from guestcopy.Place, to string, l guestcopy.Limits) error {
	dir, name, err := destination(to, path.Base(from.Path))
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	unpacked := make(chan error, 1)
	go func() {
		err := guestcopy.Unpack(base64.NewDecoder(base64.StdEncoding, r), dir, path.Base(from.Path), name, l, k.count)
		_ = r.CloseWithError(errStop) // whoever still writes need not
		unpacked <- err
	}()
	err = k.run(ctx, from.Pod, cpFetch, []string{from.Container, slashless(path.Dir(from.Path)), path.Base(from.Path)},
		&bounded{w: w, left: 2*l.Bytes + int64(l.Entries)*maxEntry}, nil)
	_ = w.CloseWithError(io.EOF)
	e := <-unpacked
	switch {
	case errors.Is(err, errStop) || err == nil:
		return e // also behind the end of a tar, where padding is
	case e != nil && !errors.Is(e, io.ErrUnexpectedEOF) && !errors.Is(err, errTooMuch) && ctx.Err() == nil:
		if _, is := errors.AsType[*guestcopy.Refusal](e); is {
			return errors.Join(err, e)
		}
	}
	return err
}

var (
	errStop    = errors.New("enough")
	errTooMuch = errors.New("the guest sends more than was allowed")
)

// maxEntry bounds what an entry takes of a stream beside its content, in bytes of base64.
const maxEntry = 16 << 10

// bounded refuses more than a number of bytes.
type bounded struct {
	w    io.Writer
	left int64
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errTooMuch
	}
	return b.w.Write(p)
}

// slashless is a folder in front of a slash.
func slashless(dir string) string {
	if dir == "/" {
		return ""
	}
	return dir
}

// destination is where something called base goes on this host: into a folder, or under another name.
func destination(to, base string) (dir, name string, err error) {
	st, err := os.Stat(to)
	switch {
	case err == nil && st.IsDir():
		return to, base, nil
	case strings.HasSuffix(to, "/"):
		return "", "", fmt.Errorf("%s is no folder", to)
	}
	dir = filepath.Dir(to)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return "", "", errors.Join(fmt.Errorf("%s is no folder", dir), err)
	}
	return dir, filepath.Base(to), nil
}

// lineLength is how much is typed before a line ends, in bytes of base64: far less than a terminal keeps.
const lineLength = 1024

// endOfFile is the key that ends the input of what reads a terminal, at the front of a line. termios(3), VEOF.
const endOfFile = "\x04"

// send copies to a guest.
func (k *copying) send(ctx context.Context, from string, to guestcopy.Place) error {
	if _, err := os.Lstat(from); err != nil {
		return err
	}
	abs, err := filepath.Abs(from)
	if err != nil {
		return err
	}
	dir, name := slashless(path.Dir(to.Path)), path.Base(to.Path)
	var is bytes.Buffer
	if err := k.run(ctx, to.Pod, cpLook, []string{to.Container, dir, name}, &is, nil); err != nil {
		return err
	}
	word := strings.TrimSpace(is.String())
	switch word {
	case "folder":
		dir, name = to.Path, filepath.Base(abs)
	case "name":
	default:
		return fmt.Errorf("pod %s: the guest says %q of the destination", to.Pod, printable.Clean([]byte(word)))
	}
	return k.run(ctx, to.Pod, cpSend, []string{to.Container, dir, name}, io.Discard, func(c io.Writer) error {
		typed := &lines{w: c}
		encoder := base64.NewEncoder(base64.StdEncoding, typed)
		err := guestcopy.Pack(encoder, abs, name, func(p string) {
			fmt.Fprintf(k.err, "cp: %s is neither file, folder nor link, and is left out\n", p)
		}, k.count)
		if err == nil {
			err = encoder.Close()
		}
		if err != nil {
			return fmt.Errorf("send to the guest: %w", err)
		}
		_, err = io.WriteString(c, "\n"+endOfFile)
		return err
	})
}

// lines writes a line feed behind each lineLength bytes.
type lines struct {
	w  io.Writer
	at int
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	var out []byte
	for _, c := range b {
		out = append(out, c)
		if l.at++; l.at == lineLength {
			out, l.at = append(out, '\n'), 0
		}
	}
	if _, err := l.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// count tells people of what takes longer than a second.
func (k *copying) count(n int64) {
	k.bytes += n
	now := time.Now()
	if k.told.IsZero() {
		k.told = now
	}
	if now.Sub(k.told) >= time.Second {
		k.told = now
		fmt.Fprintf(k.err, "cp: %d MiB\n", k.bytes>>20)
	}
}
