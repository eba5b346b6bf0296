package agentctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	mdlayher "github.com/mdlayher/vsock"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/runtime/vsock"
)

// dialTime bounds the way to an agent.
const dialTime = 30 * time.Second

// Address is where an agent is.
type Address struct {
	Path   string // of a UNIX socket; a name that begins with @ is abstract
	Hybrid bool   // the socket is a hypervisor's, which is asked for Port first
	CID    uint32 // of a guest on the host's vsock, where Path is empty
	Port   uint32
}

// Hybrid says how a UNIX socket is to be taken that is a hypervisor's. The zero value takes it as an agent's own.
type Hybrid struct {
	Asked bool
	Port  uint32 // 0 is the agent's
}

// ParseAddress reads vsock://CID:PORT, unix://PATH, unix://@NAME, and hvsock://PATH:PORT as a pod's management socket
// tells it.
func ParseAddress(s string, h Hybrid) (Address, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	a, err := Address{}, error(nil)
	if h.Port == 0 {
		h.Port = agentapi.Port
	}
	switch {
	case !ok:
		err = errors.New("no scheme")
	case scheme == "vsock" && !h.Asked:
		c, p, _ := strings.Cut(rest, ":")
		if p == "" {
			p = agentapi.PortText
		}
		if a.CID, err = number(c, "CID"); err == nil {
			a.Port, err = number(p, "port")
		}
	case scheme == "unix" && len(rest) > len("@"):
		a.Path = rest
		if h.Asked {
			a.Hybrid, a.Port = true, h.Port
		}
	case scheme == "hvsock":
		i := strings.LastIndexByte(rest, ':')
		if i <= 0 {
			return Address{}, fmt.Errorf("address %q: want hvsock://PATH:PORT", s)
		}
		a.Path, a.Hybrid = rest[:i], true
		a.Port, err = number(rest[i+1:], "port")
	default:
		err = errors.New("unknown")
	}
	if err == nil && a.Path != "" && a.Path[0] != '@' && !filepath.IsAbs(a.Path) {
		err = errors.New("the path is not absolute")
	}
	if err != nil {
		return Address{}, fmt.Errorf("address %q: %w; want vsock://CID:PORT, unix://PATH or unix://@NAME, and for a "+
			"hypervisor's socket hvsock://PATH:PORT", s, err)
	}
	return a, nil
}

func number(s, what string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s %q is no number", what, s)
	}
	return uint32(n), nil
}

// Dial connects to the agent.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	switch {
	case a.Hybrid:
		return vsock.NewRemote(a.Path, -1).Dial(ctx, a.Port)
	case a.Path != "":
		var d net.Dialer
		return d.DialContext(ctx, "unix", a.Path)
	}
	c, err := mdlayher.Dial(a.CID, a.Port, nil) // Linux gives up after 2 s
	if err != nil {
		return nil, err
	}
	return c, nil
}
