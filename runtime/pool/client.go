package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/katabuild/katabuild/internal/owned"
	"github.com/katabuild/katabuild/runtime/sandbox"
	"github.com/katabuild/katabuild/runtime/template"
)

// askTime bounds asking the daemon, which has what it answers with: one that does not answer is not waited for.
const askTime = 200 * time.Millisecond

// Taken is a guest that waited in the pool. Its files are the caller's to close.
type Taken struct {
	*sandbox.Held
	Keeper int // the process that started it
}

// Take asks the daemon at a socket for a guest with a key. The guest is the caller's: it ends when the caller closes
// its files and nobody has adopted it. The error says why there is none.
func Take(ctx context.Context, endpoint string, key template.Key) (*Taken, error) {
	a, files, err := ask(ctx, endpoint, &request{Version: version, Want: wantGuest, Key: key})
	if err != nil {
		return nil, err
	}
	switch {
	case a.Refusal != "":
		closeAll(files)
		return nil, errors.New(a.Refusal)
	case a.Guest == nil || a.Guest.Key != key:
		closeAll(files)
		return nil, errors.New("the pool answered with something else than such a guest")
	}
	h, err := a.Guest.held(files)
	if err != nil {
		return nil, err
	}
	return &Taken{h, a.Guest.Keeper}, nil
}

// Ask asks the daemon at a socket what it has.
func Ask(ctx context.Context, endpoint string) (*Status, error) {
	a, files, err := ask(ctx, endpoint, &request{Version: version, Want: wantStatus})
	if err != nil {
		return nil, err
	}
	closeAll(files)
	if a.Status == nil {
		return nil, fmt.Errorf("the pool answered with something else than its status: %s", a.Refusal)
	}
	return a.Status, nil
}

func ask(ctx context.Context, endpoint string, r *request) (_ *answer, _ []*os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ask the pool %s: %w", endpoint, err)
		}
	}()
	if err := owned.Folder(filepath.Dir(endpoint)); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTime, fmt.Errorf("no answer within %v", askTime))
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, endpoint)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	conn := c.(*net.UnixConn) // which network says
	if err := peer(conn); err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = send(conn, r)
	var b []byte
	var files []*os.File
	if err == nil {
		b, files, err = receive(conn)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, nil, err
	}
	a, err := decodeAnswer(b)
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return a, files, nil
}
