package agent

import (
	"context"
	"fmt"
	"net"
)

// accept gives each connection of l to take, which must not wait for its end, until ctx ends. It closes l.
func accept(ctx context.Context, l net.Listener, take func(net.Conn)) error {
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // nothing was said on it
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		take(c)
	}
}
