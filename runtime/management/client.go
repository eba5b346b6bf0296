package management

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/katabuild/katabuild/internal/printable"
	"github.com/katabuild/katabuild/runtime/record"
)

// Client asks the management socket of one pod, ours or Kata Containers'.
type Client struct {
	Dirs record.Dirs
	ID   string
}

// errNoSocket says that a pod has no management socket: there is no such pod, or it has ended.
var errNoSocket = errors.New("there is no management socket")

// Get asks for what is at a path, such as "/iptables".
func (c Client) Get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, nil)
}

// Put sends something to a path.
func (c Client) Put(ctx context.Context, path string, body []byte) error {
	_, err := c.do(ctx, http.MethodPut, path, body)
	return err
}

func (c Client) do(ctx context.Context, method, path string, body []byte) (_ []byte, err error) {
	if err := record.CheckID(c.ID); err != nil {
		return nil, err
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("pod %s: %d bytes are too many for %s, %d are possible", c.ID, len(body), path, maxBody)
	}
	socket := c.Dirs.MonitorSocket(c.ID)
	client := &http.Client{Timeout: callTime, Transport: &http.Transport{DisableKeepAlives: true,
		DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := http.NewRequestWithContext(ctx, method, "http://shim"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("pod %s: %w at %s", c.ID, errNoSocket, socket)
	}
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", c.ID, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("pod %s: %s: %w", c.ID, path, err)
	case len(b) > maxAnswer:
		return nil, fmt.Errorf("pod %s: %s: the answer is larger than %d bytes", c.ID, path, maxAnswer)
	case resp.StatusCode != http.StatusOK:
		why := strings.ReplaceAll(strings.TrimSpace(string(b[:min(len(b), maxError)])), "\n", " ")
		return nil, fmt.Errorf("pod %s: %s: %s: %s", c.ID, path, http.StatusText(resp.StatusCode),
			printable.Clean([]byte(why)))
	}
	return b, nil
}

// maxAnswer bounds an answer, in bytes: as much of it as a message of the agent's.
const maxAnswer = 4 << 20
