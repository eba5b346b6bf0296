package agentctl

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/agentapi/oci"
)

// ErrQuit is what the word quit makes of a session.
var ErrQuit = errors.New("quit")

// Session is a conversation with one agent. It is used from one goroutine.
type Session struct {
	o      Options
	client *ttrpc.Client
	ids    ids
}

// Options are how a session behaves. The zero value fills in what a request leaves out, and waits for ever.
type Options struct {
	Out     io.Writer     // needed
	Bundle  string        // folder with config.json and the root file system of containers; empty is none
	Timeout time.Duration // of one call; 0 is none
	Bare    bool          // requests are sent as they were typed, without ids and defaults
	JSON    bool          // one JSON object a call
}

// ids are what a session calls things that nobody has given a name. The same container is meant throughout.
type ids struct{ container, exec, sandbox string }

// NewID is a fresh id, as hosts make them.
func NewID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// New begins a session on a connection, which it owns.
func New(conn net.Conn, o Options) *Session {
	return &Session{o: o, client: ttrpc.NewClient(conn), ids: ids{NewID(), NewID()[:16], NewID()}}
}

// Close ends the connection.
func (s *Session) Close() error { return s.client.Close() }

// The words that are no calls.
const (
	wordEcho   = "echo"
	wordHelp   = "help"
	wordList   = "list"
	wordQuit   = "quit"
	wordRepeat = "repeat"
	wordSleep  = "sleep"
)

// words are all that a line can begin with: what is no call first.
func words() []string {
	words := []string{wordEcho, wordHelp, wordList, wordQuit, wordRepeat, wordSleep}
	for _, c := range calls() {
		words = append(words, c.Name)
	}
	return words
}

// Do does what a line says. An empty line, and one that begins with #, does nothing. An error of the agent's is a
// *callError.
func (s *Session) Do(ctx context.Context, line string) error {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return nil
	}
	c, err := parse(line)
	if err != nil {
		return err
	}
	switch c.word {
	case wordEcho:
		_, err := fmt.Fprintln(s.o.Out, strings.Join(c.args, " "))
		return err
	case wordHelp:
		return s.help(c.args)
	case wordList:
		for _, c := range calls() {
			if _, err := fmt.Fprintf(s.o.Out, "%s %s\n", c.Name, strings.Join(c.fields(), " ")); err != nil {
				return err
			}
		}
		return nil
	case wordQuit:
		return ErrQuit
	case wordRepeat:
		return s.repeat(ctx, line)
	case wordSleep:
		return sleep(ctx, c.args)
	}
	call, known := find(c.word)
	if !known {
		return fmt.Errorf("unknown word %q; list lists the calls, help the other words", c.word)
	}
	if call.Name == "CopyFile" && c.body == "" {
		return s.copyFile(ctx, c.args)
	}
	request, err := s.build(ctx, call, c)
	if err != nil {
		return fmt.Errorf("%s: %w", call.Name, err)
	}
	return s.tell(call, request, s.ask)(ctx)
}

// help explains the words, or the fields of a call.
func (s *Session) help(args []string) error {
	text := `CALL                     ask with what this tool fills in; list has all calls
CALL KEY=VALUE...        set fields; a.b for a field in a field, file://PATH for a file's content, JSON for the rest
CALL json://{...}        the whole request in JSON
CALL file://PATH         the same in a file
echo, sleep D, repeat N LINE, list, help [CALL], quit
`
	if len(args) > 0 {
		c, known := find(args[0])
		if !known {
			return fmt.Errorf("there is no call %q", args[0])
		}
		text = fmt.Sprintf("%s of %s, with %s\n", c.Name, c.Service, strings.Join(names(c.method.Input()), ", "))
		if more := extras[c.Name]; more != "" {
			text += more + "\n"
		}
	}
	_, err := io.WriteString(s.o.Out, text)
	return err
}

// extras are the keys of a call that are no fields.
var extras = map[string]string{
	"CopyFile": "src=PATH dest=PATH: a file, folder with all in it, or link of this host; dest is below " +
		sharedFolder + ", or relative to it",
	"CreateContainer": "bundle=FOLDER: its config.json, and its root copied into the guest; rootfs=FOLDER: a root to " +
		"copy; spec=FILE: a config.json alone; args=WORD or args=[\"WORD\",...]: what to run",
	"ExecProcess":   "args=WORD or args=[\"WORD\",...]: what to run",
	"SetPolicy":     "policy_file=PATH: the policy in a file",
	"SignalProcess": "signal=NAME or NUMBER; TERM without",
}

// repeat does a line several times.
func (s *Session) repeat(ctx context.Context, line string) error {
	_, rest, _ := strings.Cut(line, " ")
	count, what, ok := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseUint(count, 10, 32)
	if !ok || err != nil {
		return errors.New("repeat: want a number and a line")
	}
	for range n {
		if err := s.Do(ctx, what); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("sleep: want a duration such as 2s or 100ms")
	}
	d, err := time.ParseDuration(args[0])
	if n, e := strconv.ParseUint(args[0], 10, 32); e == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return fmt.Errorf("sleep: %q is no duration such as 2s or 100ms", args[0])
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask makes a call.
func (s *Session) ask(ctx context.Context, c apiCall, request proto.Message) (proto.Message, error) {
	if s.o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.o.Timeout)
		defer cancel()
	}
	answer := c.response()
	err := s.client.Call(ctx, c.Service, string(c.method.Name()), request, answer)
	if c.Name == "DestroySandbox" && errors.Is(err, ttrpc.ErrClosed) {
		err = nil // the agent has ended before its answer was out, as it was told
	}
	return answer, err
}

// tell makes a call, and says what came of it.
func (s *Session) tell(c apiCall, request proto.Message, ask func(context.Context, apiCall, proto.Message) (
	proto.Message, error)) func(context.Context) error {
	return func(ctx context.Context) error {
		answer, err := ask(ctx, c, request)
		if s.o.JSON {
			if e := printJSON(s.o.Out, c.Name, answer, err); e != nil {
				return e
			}
		}
		if err != nil {
			return &callError{c.Name, err}
		}
		if s.o.JSON {
			return nil
		}
		return printAnswer(s.o.Out, c.Name, answer)
	}
}

// build makes a request of a line.
func (s *Session) build(ctx context.Context, call apiCall, c command) (proto.Message, error) {
	request := call.request()
	m := request.ProtoReflect()
	var own map[string]string
	if c.body != "" {
		if err := jsonBody(c.body, request); err != nil {
			return nil, err
		}
	} else {
		var rest []string
		var err error
		if own, rest, err = take(c.args, ownKeys[call.Name]...); err != nil {
			return nil, err
		}
		for _, a := range rest {
			k, v, _ := strings.Cut(a, "=")
			if err := set(m, k, v); err != nil {
				return nil, err
			}
		}
	}
	if !s.o.Bare {
		s.name(m)
	}
	return request, s.complete(ctx, request, own)
}

// ownKeys are keys that are no fields.
var ownKeys = map[string][]string{
	"CreateContainer": {"bundle", "rootfs", "spec", "args", "image"}, "ExecProcess": {"args"},
}

// name fills in ids.
func (s *Session) name(m protoreflect.Message) {
	for name, id := range map[protoreflect.Name]string{"container_id": s.ids.container, "sandbox_id": s.ids.sandbox} {
		if f := m.Descriptor().Fields().ByName(name); f != nil && !m.Has(f) {
			m.Set(f, protoreflect.ValueOfString(id))
		}
	}
}

// defaultHostname is a guest's whose name nobody has given.
const defaultHostname = "agentctl"

// Defaults of calls.
const (
	readLength   = 32 << 10
	randomLength = 64
	nonceLength  = 32
	rows         = 24
	columns      = 80
)

// complete fills in what an agent would refuse a request without.
func (s *Session) complete(ctx context.Context, request proto.Message, own map[string]string) error {
	switch r := request.(type) {
	case *katapb.CreateContainerRequest:
		return s.container(ctx, r, own)
	case *katapb.ExecProcessRequest:
		if !s.o.Bare && r.ExecId == "" {
			r.ExecId = s.ids.exec
		}
		return s.process(r, own)
	}
	if s.o.Bare {
		return nil
	}
	switch r := request.(type) {
	case *katapb.CreateSandboxRequest:
		if r.Hostname == "" {
			r.Hostname = defaultHostname
		}
	case *katapb.ReadStreamRequest:
		if r.Len == 0 {
			r.Len = readLength
		}
	case *katapb.SignalProcessRequest:
		if r.Signal == 0 {
			r.Signal = uint32(unix.SIGTERM)
		}
	case *katapb.UpdateContainerRequest:
		if r.Resources == nil {
			r.Resources = &katapb.LinuxResources{}
		}
	case *katapb.TtyWinResizeRequest:
		if r.Row == 0 && r.Column == 0 {
			r.Row, r.Column = rows, columns
		}
	case *katapb.SetGuestDateTimeRequest:
		if r.Sec == 0 && r.Usec == 0 {
			now := time.Now()
			r.Sec, r.Usec = now.Unix(), int64(now.Nanosecond()/1000)
		}
	case *katapb.ReseedRandomDevRequest:
		if len(r.Data) == 0 {
			r.Data = random(randomLength)
		}
	case *katapb.UpdateRoutesRequest:
		if r.Routes == nil {
			r.Routes = &katapb.Routes{}
		}
	case *katapb.AddARPNeighborsRequest:
		if r.Neighbors == nil {
			r.Neighbors = &katapb.ARPNeighbors{}
		}
	default:
		m := request.ProtoReflect()
		if f := m.Descriptor().Fields().ByName("nonce"); f != nil && !m.Has(f) {
			m.Set(f, protoreflect.ValueOfBytes(random(nonceLength)))
		}
	}
	return nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// container fills in a container's specification, and copies its root where there is one to copy.
func (s *Session) container(ctx context.Context, r *katapb.CreateContainerRequest, own map[string]string) error {
	if own["image"] != "" {
		return errors.New("image=: images are not pulled here; unpack one, and name the folder by rootfs= or bundle=")
	}
	var args []string
	if own["args"] != "" {
		var err error
		if args, err = list(own["args"]); err != nil {
			return err
		}
	}
	bundle, root, file := own["bundle"], own["rootfs"], own["spec"]
	if bundle == "" && file == "" && root == "" && !s.o.Bare {
		bundle = s.o.Bundle
	}
	if bundle == "" && file == "" && (s.o.Bare || r.OCI != nil) && root == "" && args == nil {
		return nil // as it was typed
	}
	spec := defaultSpec(r.ContainerId, args)
	if bundle != "" {
		file = filepath.Join(bundle, "config.json")
	}
	if file != "" {
		var err error
		if spec, err = readSpec(file); err != nil {
			return err
		}
		if args != nil && spec.Process != nil {
			spec.Process.Args = args
		}
	}
	if bundle != "" && root == "" && spec.Root != nil {
		if root = spec.Root.Path; !filepath.IsAbs(root) {
			root = filepath.Join(bundle, root)
		}
	}
	if root != "" {
		to := rootOf(r.ContainerId)
		if err := s.copyTree(ctx, root, to); err != nil {
			return err
		}
		if spec.Root == nil {
			return errors.New("the specification has no root")
		}
		spec.Root.Path = to
	}
	wire, err := oci.ToWire(spec)
	if err != nil {
		return err
	}
	// What was typed counts more.
	if r.OCI != nil {
		proto.Merge(wire, r.OCI)
	}
	r.OCI = wire
	return nil
}

// process fills in a process.
func (s *Session) process(r *katapb.ExecProcessRequest, own map[string]string) error {
	var args []string
	if own["args"] != "" {
		var err error
		if args, err = list(own["args"]); err != nil {
			return err
		}
	}
	if args == nil && (s.o.Bare || r.Process != nil) {
		return nil
	}
	wire := oci.ProcessToWire(defaultProcess(args))
	if r.Process != nil {
		proto.Merge(wire, r.Process)
	}
	r.Process = wire
	return nil
}

// copyFile is CopyFile with a source on this host.
func (s *Session) copyFile(ctx context.Context, args []string) error {
	call, _ := find("CopyFile")
	own, rest, err := take(args, "src", "dest")
	if err != nil {
		return fmt.Errorf("CopyFile: %w", err)
	}
	if own["src"] == "" { // by its fields
		request := call.request()
		for _, a := range rest {
			k, v, _ := strings.Cut(a, "=")
			if err := set(request.ProtoReflect(), k, v); err != nil {
				return fmt.Errorf("CopyFile: %w", err)
			}
		}
		return s.tell(call, request, s.ask)(ctx)
	}
	to := own["dest"]
	switch {
	case len(rest) > 0:
		return fmt.Errorf("CopyFile: with src= there is dest= and no %s", rest[0])
	case to == "":
		to = filepath.Join(sharedFolder, filepath.Base(own["src"]))
	case !filepath.IsAbs(to):
		to = filepath.Join(sharedFolder, to)
	}
	return s.tell(call, nil, func(ctx context.Context, c apiCall, _ proto.Message) (proto.Message, error) {
		return c.response(), s.copyTree(ctx, own["src"], to)
	})(ctx)
}

// chunkSize is how much of a file goes in one message, as Kata's hosts have it.
const chunkSize = 1 << 20

// copyTree copies a file, a link, or a folder with all that is in it. Devices, sockets and pipes are left out.
func (s *Session) copyTree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return s.copyOne(ctx, path, filepath.Join(to, rel))
	})
}

func (s *Session) copyOne(ctx context.Context, from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	r := &katapb.CopyFileRequest{Path: to, FileMode: st.Mode, DirMode: 0o755, Uid: int32(st.Uid), Gid: int32(st.Gid)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return s.copyChunk(ctx, r)
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		r.Data = []byte(target)
		return s.copyChunk(ctx, r)
	case unix.S_IFREG:
	default:
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	r.FileSize = st.Size
	for buf := make([]byte, chunkSize); ; r.Offset += int64(len(r.Data)) {
		n, err := io.ReadFull(f, buf[:min(chunkSize, st.Size-r.Offset)])
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s, which was to have %d bytes: %w", from, st.Size, err)
		}
		if n == 0 && st.Size > 0 {
			return nil
		}
		r.Data = buf[:n]
		if err := s.copyChunk(ctx, r); err != nil {
			return err
		}
		if st.Size == 0 {
			return nil
		}
	}
}

func (s *Session) copyChunk(ctx context.Context, r *katapb.CopyFileRequest) error {
	call, _ := find("CopyFile")
	_, err := s.ask(ctx, call, r)
	return err
}
