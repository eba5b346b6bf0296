package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/agent/options"
	"github.com/katabuild/katabuild/agent/serve"
	"github.com/katabuild/katabuild/internal/agentapi"
)

// hostPorts are the vsock ports of the guest that a host's tools take for the agent's own: the log's and the debug
// console's, as Kata Containers has them. docs/formats/vsock.md.
var hostPorts = []uint32{agentapi.LogPort, agentapi.DebugConsolePort}

// ports are those of the agent's beside the API's. All are taken before there is any container: a container that had
// one would be met by whoever looks for the agent there.
type ports struct {
	log, console net.Listener // nil where nobody is to be served
	held         []int        // sockets that only keep a port: connections are refused
}

// takePorts takes the ports that are served, and holds the others. What fails is told: a guest without vsock has no
// ports to lose.
func takePorts(o options.Options, log *slog.Logger) *ports {
	p := &ports{}
	listen := func(what string, port uint32) net.Listener {
		l, err := serve.Listen(fmt.Sprintf("vsock://-1:%d", port))
		if err != nil {
			log.Error(what + ": " + err.Error())
			return nil
		}
		return l
	}
	taken := map[uint32]bool{}
	if o.LogPort != 0 {
		p.log, taken[o.LogPort] = listen("log on vsock", o.LogPort), true
	}
	if o.DebugConsole && o.DebugConsolePort != 0 {
		p.console, taken[o.DebugConsolePort] = listen("debug console", o.DebugConsolePort), true
	}
	for _, port := range hostPorts {
		if taken[port] {
			continue
		}
		fd, err := hold(port)
		if err != nil {
			log.Debug(err.Error())
			continue
		}
		p.held = append(p.held, fd)
	}
	return p
}

// hold binds a vsock port and does not listen: nobody else can have it, and connections are refused. vsock(7).
func hold(port uint32) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("hold vsock port %d: %w", port, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}); err != nil {
		return -1, errors.Join(fmt.Errorf("hold vsock port %d: %w", port, err), unix.Close(fd))
	}
	return fd, nil
}

// close gives up what is held. Listeners are closed by those who serve on them.
func (p *ports) close() {
	for _, fd := range p.held {
		_ = unix.Close(fd)
	}
}

// serveOn runs a server on a listener, and tells what goes wrong.
func serveOn(ctx context.Context, what string, l net.Listener, log *slog.Logger, run func(context.Context,
	net.Listener) error) {
	if err := run(ctx, l); err != nil {
		log.Error(what + ": " + err.Error())
	}
}
