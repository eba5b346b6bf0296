package rootfs

import (
	"context"
	"errors"
	"io/fs"

	"github.com/katabuild/katabuild/internal/artifact"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/rootfs/sbom"
	"github.com/katabuild/katabuild/rootfs/tree"
)

// AgentPath is where the agent lies in a root file system. Where it is PID 1, /sbin/init leads there.
const AgentPath = "/usr/bin/kata-agent"

// Agent is the last layer of every guest's root file system: the agent, how it is started, and what the kernel and it
// need to be there already, because the root is read-only.
type Agent struct {
	Path   string // on the host
	Digest digest.Digest
	Size   int64
	Go     string // version of the Go tool-chain that built it
	Init   string // manifest.InitAgent or manifest.InitSystemd
}

// Inputs implements Layer.
func (l Agent) Inputs() []artifact.Input {
	return []artifact.Input{{Name: "agent", Value: string(l.Digest)}, {Name: "init", Value: l.Init}}
}

// Apply implements Layer.
func (l Agent) Apply(ctx context.Context, t *tree.Tree, now tree.Time) ([]sbom.Component, error) {
	const origin = "agent"
	folder := func(path string, mode uint16) error {
		n, err := t.Resolve(path)
		if err == nil && n.Kind == tree.Dir {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return t.Put(path, &tree.Node{Mode: mode, Time: now, Origin: origin})
	}
	for _, f := range []struct {
		path string
		mode uint16
	}{
		{"/dev", 0o755}, {"/etc", 0o755}, {"/proc", 0o555}, {"/run", 0o755}, {"/sys", 0o555}, {"/tmp", 0o1777},
		{"/usr/bin", 0o755},
		{"/usr/sbin", 0o755}, {"/var", 0o755}, {"/mnt", 0o755},
	} {
		if err := folder(f.path, f.mode); err != nil {
			return nil, err
		}
	}
	if _, err := t.Lookup("/sbin"); errors.Is(err, fs.ErrNotExist) {
		// Where /sbin is missing, there is no distribution whose way of laying out folders would differ.
		for _, d := range []string{"bin", "sbin"} {
			if _, err := t.Lookup("/" + d); errors.Is(err, fs.ErrNotExist) {
				if err := t.Put("/"+d, &tree.Node{Kind: tree.Symlink, Mode: 0o777, Target: "usr/" + d, Time: now,
					Origin: origin}); err != nil {
					return nil, err
				}
			}
		}
	}
	files := Files{
		{Path: AgentPath, Kind: tree.File, Mode: 0o755, Source: l.Path, Digest: l.Digest, Size: l.Size, Origin: origin},
	}
	// What containers get their own of lies over a file that has to be there.
	for _, name := range []string{"/etc/resolv.conf", "/etc/machine-id"} {
		if _, err := t.Lookup(name); errors.Is(err, fs.ErrNotExist) {
			files = append(files, File{Path: name, Kind: tree.File, Mode: 0o644, Origin: origin})
		}
	}
	switch l.Init {
	case manifest.InitAgent:
		files = append(files, File{Path: "/sbin/init", Kind: tree.Symlink, Target: AgentPath, Origin: origin})
	case manifest.InitSystemd:
		files = append(files,
			File{Path: "/usr/lib/systemd/system/kata-agent.service", Kind: tree.File, Mode: 0o644,
				Data: []byte(agentService), Origin: origin},
			File{Path: "/usr/lib/systemd/system/kata-containers.target", Kind: tree.File, Mode: 0o644,
				Data: []byte(agentTarget), Origin: origin})
	}
	if _, err := files.Apply(ctx, t, now); err != nil {
		return nil, err
	}
	// The kernel opens the console before anybody mounts a devtmpfs.
	for _, d := range []struct {
		path         string
		mode         uint16
		major, minor uint32 // Linux: Documentation/admin-guide/devices.txt
	}{{"/dev/console", 0o600, 5, 1}, {"/dev/null", 0o666, 1, 3}} {
		if err := t.Put(d.path, &tree.Node{Kind: tree.CharDevice, Mode: d.mode, Major: d.major, Minor: d.minor,
			Time: now, Origin: origin}); err != nil {
			return nil, err
		}
	}
	return []sbom.Component{{
		Name: "kata-agent", Version: "katabuild", PURL: "pkg:golang/github.com/katabuild/katabuild#cmd/kata-agent",
		Digest: l.Digest, Origin: origin,
		License: "Apache-2.0",
	}}, nil
}

// The units have the names that Kata Containers uses, so that systemd.unit=kata-containers.target starts either agent.
const agentService = `# What runs the containers of this guest. The guest is of no use without it, and ends with it.
[Unit]
Description=Agent of the container runtime
Documentation=https://github.com/katabuild/katabuild
Requires=local-fs.target
After=local-fs.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
ExecStart=/usr/bin/kata-agent
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
# Containers are its children, each with limits and a group of its own.
Delegate=yes
KillMode=process
LimitNOFILE=1048576
LimitCORE=0
TasksMax=infinity
OOMScoreAdjust=-997
`

const agentTarget = `# What a guest starts: the little that the agent needs, and the agent.
[Unit]
Description=Guest of the container runtime
Documentation=https://github.com/katabuild/katabuild
Requires=basic.target kata-agent.service
After=basic.target
AllowIsolate=yes
`
