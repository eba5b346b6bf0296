package serve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/katabuild/katabuild/internal/agentapi"
)

// Bounds of what comes before the stream: "65535\n" is six bytes.
const (
	maxPortLine = 6
	forwardTime = 10 * time.Second // to say the port, and to connect to it
)

// maxForwards bounds the connections that are joined at a time, each of which takes some 100 KiB.
const maxForwards = 256

// Forward joins the host's connections on l to TCP ports of the guest's loopback interface, until l is closed. Those
// beyond maxForwards are closed at once.
func Forward(ctx context.Context, l net.Listener, log *slog.Logger) error {
	places := make(chan struct{}, maxForwards)
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a forwarded connection: %w", err)
		}
		select {
		case places <- struct{}{}:
		default:
			log.Warn("a connection is not forwarded", "connections", maxForwards)
			_ = c.Close() // the host sees that it is refused
			continue
		}
		go func() {
			defer func() { <-places }()
			if err := forward(ctx, c); err != nil {
				log.Debug("forward", "err", err)
			}
		}()
	}
}

func forward(ctx context.Context, c net.Conn) error {
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	if err := c.SetReadDeadline(time.Now().Add(forwardTime)); err != nil {
		return err
	}
	port, rest, err := readPort(c)
	if err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	var d net.Dialer
	t, err := d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		var err6 error
		if t, err6 = d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", port)); err6 != nil {
			return errors.Join(err, err6)
		}
	}
	defer t.Close()
	if _, err := io.WriteString(c, agentapi.ForwardOK); err != nil {
		return err
	}
	var wg sync.WaitGroup
	one := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from) // the other side sees the end
		if w, ok := to.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite()
		}
	}
	wg.Go(func() { one(t, rest) })
	wg.Go(func() { one(c, t) })
	wg.Wait()
	return nil
}

// readPort reads the line with the port; what comes behind it is the stream's.
func readPort(r io.Reader) (port string, rest io.Reader, err error) {
	b := bufio.NewReaderSize(r, 64<<10)
	var line strings.Builder
	for line.Len() < maxPortLine {
		x, err := b.ReadByte()
		if err != nil {
			return "", nil, fmt.Errorf("port to forward to: %w", err)
		}
		if x != '\n' {
			line.WriteByte(x)
			continue
		}
		n, err := strconv.ParseUint(line.String(), 10, 16)
		if err != nil || n == 0 || line.String()[0] == '0' {
			break
		}
		return line.String(), b, nil
	}
	return "", nil, fmt.Errorf("port to forward to: %q is none", line.String())
}
