package initrd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katabuild/katabuild/initrd/cpio"
	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/golden"
	"github.com/katabuild/katabuild/internal/testenv"
	"github.com/klauspost/compress/zstd"
)

// request asks for an initrd with one of each kind of file. Its bytes are the same whatever folder it works in.
func request(t *testing.T) Request {
	t.Helper()
	d := t.TempDir()
	agent, tool := filepath.Join(d, "agent"), filepath.Join(d, "tool")
	for p, s := range map[string]string{agent: "the agent", tool: "a tool"} {
		if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(d, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	return Request{
		Arch:  arch.All()[0],
		Agent: Agent{Path: agent, Digest: digest.Of([]byte("the agent"))},
		Files: []File{
			{Path: "/usr/bin/tool", Source: tool, Mode: new(uint32(0o755)), UID: 1, GID: 2},
			{Path: "/etc/hostname", Data: []byte("guest\n")},
			{Path: "/bin", Kind: Symlink, Target: "usr/bin"},
			{Path: "/usr/bin/alias", Kind: HardLink, Target: "/usr/bin/tool"},
			{Path: "/usr/bin/zlias", Kind: HardLink, Target: "/usr/bin/tool"},
			{Path: "/run", Kind: Dir, Mode: new(uint32(0o700))},
			{Path: "/dev/vda", Kind: Block, Major: 254, Minor: 16},
			{Path: "/var/pipe", Kind: FIFO},
		},
		Time:   1_700_000_000,
		OutDir: out,
	}
}

// built builds and returns the unpacked bytes.
func built(t *testing.T, r Request) (*Result, []byte) {
	t.Helper()
	res, err := r.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(res.Path)
	if err != nil {
		t.Fatal(err)
	}
	if res.Digest != digest.Of(b) || res.Size != int64(len(b)) {
		t.Errorf("%+v is not what the file is", res)
	}
	if r.Compression == zstandard {
		z, err := zstd.NewReader(nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, err = z.DecodeAll(b, nil); err != nil {
			t.Fatal(err)
		}
	}
	if res.Unpacked != int64(len(b)) {
		t.Errorf("%d bytes unpacked, the result says %d", len(b), res.Unpacked)
	}
	return res, b
}

// list prints an archive, a line an entry, with its bytes.
func list(t *testing.T, archive []byte) string {
	t.Helper()
	var b strings.Builder
	r := cpio.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Time != 1_700_000_000 {
			t.Errorf("%s: time %d", h.Name, h.Time)
		}
		fmt.Fprintf(&b, "%06o %d:%d inode %2d links %d device %d:%d %s %q\n",
			h.Mode, h.UID, h.GID, h.Inode, h.Links, h.DeviceMajor, h.DeviceMinor, h.Name, body)
	}
}

func TestBuildMakesEveryKindOfFile(t *testing.T) {
	_, b := built(t, request(t))
	golden.Check(t, "files.txt", []byte(list(t, b)))
}

func TestSmallestRequestHoldsWhatAnInitNeeds(t *testing.T) {
	r := request(t)
	r.Files = nil
	_, b := built(t, r)
	golden.Check(t, "smallest.txt", []byte(list(t, b)))
}

func TestBuiltTwiceElsewhereItIsTheSame(t *testing.T) {
	for _, c := range []Compression{none, zstandard} {
		t.Run(string(c), func(t *testing.T) {
			var digests []digest.Digest
			for _, env := range []struct {
				umask int
				tz    string
			}{{0o022, "UTC"}, {0o077, "Asia/Kathmandu"}} {
				r := request(t)
				r.Compression = c
				if env.umask != 0o022 { // the order in which files are given must not matter either
					for i, j := 0, len(r.Files)-1; i < j; i, j = i+1, j-1 {
						r.Files[i], r.Files[j] = r.Files[j], r.Files[i]
					}
				}
				t.Setenv("TZ", env.tz)
				old := syscall.Umask(env.umask)
				res, _ := built(t, r)
				syscall.Umask(old)
				digests = append(digests, res.Digest)
			}
			if digests[0] != digests[1] {
				t.Error(digests)
			}
		})
	}
}

func TestTheZstdProgramReadsIt(t *testing.T) {
	testenv.Require(t, testenv.Tool("zstd"))
	r := request(t)
	_, want := built(t, r)
	r.Compression = zstandard
	res, _ := built(t, r)
	got, err := exec.Command("zstd", "-dcq", res.Path).Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: %d bytes, want %d", err, len(got), len(want))
	}
}

// A mode of no rights at all is a mode, of every kind of file.
func TestAModeOfZeroIsKept(t *testing.T) {
	r := request(t)
	for i := range r.Files {
		if f := &r.Files[i]; f.Kind != Symlink && f.Kind != HardLink {
			f.Mode = new(uint32(0))
		}
	}
	_, data := built(t, r)
	seen := 0
	for c := cpio.NewReader(bytes.NewReader(data)); ; {
		h, err := c.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Files {
			if f.Path == "/"+h.Name && f.Mode != nil {
				seen++
				if h.Mode&cpio.PermMask != 0 {
					t.Errorf("%s has mode %o", h.Name, h.Mode)
				}
			}
		}
	}
	if seen != 5 {
		t.Errorf("%d of them are there", seen)
	}
}

func TestBuildChecksDigests(t *testing.T) {
	for name, change := range map[string]func(*Request){
		"the agent": func(r *Request) { r.Agent.Digest = digest.Of([]byte("another agent")) },
		"a file":    func(r *Request) { r.Files[0].Digest = digest.Of([]byte("another tool")) },
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t)
			change(&r)
			_, err := r.Build(t.Context())
			var m *digest.Mismatch
			if !errors.As(err, &m) {
				t.Errorf("got %v, want a mismatch", err)
			}
			left, err := os.ReadDir(r.OutDir)
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for want, change := range map[string]func(*Request){
		"the agent has no digest":     func(r *Request) { r.Agent.Digest = "" },
		"no such file":                func(r *Request) { r.Files[0].Source += "x" },
		"is a folder, not a file":     func(r *Request) { r.Files[0].Source = r.OutDir },
		`compression "lzma"`:          func(r *Request) { r.Compression = "lzma" },
		"/init: that is the agent":    func(r *Request) { r.Files[1].Path = "/init" },
		"/etc/hostname: given twice":  func(r *Request) { r.Files[0].Path = "/etc/hostname" },
		"/bin above it is no folder":  func(r *Request) { r.Files[0].Path = "/bin/tool" },
		"clean absolute path":         func(r *Request) { r.Files[0].Path = "/a/../b" },
		"mode 100644":                 func(r *Request) { r.Files[0].Mode = new(uint32(0o100644)) },
		"no such kind":                func(r *Request) { r.Files[7].Kind = "socket" },
		"has no bytes of its own":     func(r *Request) { r.Files[7].Data = []byte{} },
		"both a source and data":      func(r *Request) { r.Files[0].Data = []byte{} },
		"a digest without a source":   func(r *Request) { r.Files[1].Digest = digest.Of(nil) },
		"a target belongs to":         func(r *Request) { r.Files[1].Target = "x" },
		"which is no file":            func(r *Request) { r.Files[3].Target = "/bin" },
		"which is no file, device":    func(r *Request) { r.Files[3].Target = "/usr/bin/zlias" },
		"has the mode and owner":      func(r *Request) { r.Files[3].UID = 1 },
		"device numbers belong":       func(r *Request) { r.Files[1].Minor = 1 },
		"device 4096:0: want at most": func(r *Request) { r.Files[6].Major, r.Files[6].Minor = 4096, 0 },
		"time -1":                     func(r *Request) { r.Time = -1 },
		"symbolic link to 4096 bytes": func(r *Request) { r.Files[2].Target = strings.Repeat("x", 4096) },
	} {
		t.Run(want, func(t *testing.T) {
			r := request(t)
			change(&r)
			if _, err := r.Build(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBuildStopsWhenToldTo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := request(t).Build(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func values(t *testing.T, r Request) map[string]string {
	t.Helper()
	in, err := r.Inputs()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, i := range in {
		if _, twice := m[i.Name]; twice {
			t.Errorf("input %q is listed twice", i.Name)
		}
		m[i.Name] = i.Value
	}
	return m
}

func TestInputsDecideTheBytes(t *testing.T) {
	key := func(r Request) string {
		in, err := r.Inputs()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(in)
	}
	r := request(t)
	base := key(r)
	if strings.Contains(base, filepath.Dir(r.OutDir)) {
		t.Errorf("a path of this machine decides: %s", base)
	}
	if other := key(request(t)); other != base {
		t.Errorf("the same request elsewhere: %s\n%s", base, other)
	}
	for name, want := range map[string]string{
		"file /etc/hostname": "mode 100644 owner 0:0 " + string(digest.Of([]byte("guest\n"))),
		// the last name carries the bytes
		"file /usr/bin/zlias": "hard link to /usr/bin/tool " + string(digest.Of([]byte("a tool"))),
		"file /bin":           "mode 120777 owner 0:0 to usr/bin",
		"file /dev/vda":       "mode 60600 owner 0:0 device 254:16",
	} {
		if v := values(t, r)[name]; v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	seen := map[string]string{base: "nothing"}
	for name, change := range map[string]func(*Request){
		"the agent":   func(r *Request) { r.Agent.Digest = digest.Of(nil) },
		"time":        func(r *Request) { r.Time++ },
		"compression": func(r *Request) { r.Compression = zstandard },
		"content":     func(r *Request) { r.Files[1].Data = []byte("x") },
		"mode":        func(r *Request) { r.Files[1].Mode = new(uint32(0o600)) },
		"owner":       func(r *Request) { r.Files[1].UID = 5 },
		"name":        func(r *Request) { r.Files[1].Path = "/etc/hostnam" },
		"link":        func(r *Request) { r.Files[2].Target = "usr/sbin" },
		"hard link":   func(r *Request) { r.Files[3].Target = "/etc/hostname" },
		"device":      func(r *Request) { r.Files[6].Minor = 17 },
		"kind":        func(r *Request) { r.Files[6].Kind = Char },
		"a source":    func(r *Request) { r.Files[0].Digest = digest.Of(nil) },
		"a file less": func(r *Request) { r.Files = r.Files[1:3] },
	} {
		r := request(t)
		change(&r)
		k := key(r)
		if was, ok := seen[k]; ok {
			t.Errorf("changing %s gives the key of changing %s", name, was)
		}
		seen[k] = name
	}
}
