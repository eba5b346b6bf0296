package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
	"unicode"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"github.com/katabuild/katabuild/internal/sandboxapi"
)

// The services. Version 3 has the messages of version 2 under another name, byte for byte; containerd/api's own package
// for it would bring gRPC along.
const serviceV3 = "containerd.task.v3.Task"

// Serve answers containerd on l until ctx ends.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()),
		ttrpc.WithUnaryServerInterceptor(s.timed))
	if err != nil {
		return err
	}
	taskapi.RegisterTTRPCTaskService(srv, s)
	srv.RegisterService(serviceV3, &ttrpc.ServiceDesc{Methods: s.methods()})
	srv.RegisterService(sandboxapi.Service, &ttrpc.ServiceDesc{Methods: s.sandboxMethods()})
	looking, stopLooking := context.WithCancel(ctx)
	defer stopLooking()
	go s.endIdle(looking, idleLook)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(context.WithoutCancel(ctx), l) }()
	select {
	case err := <-ended:
		if !errors.Is(err, ttrpc.ErrServerClosed) {
			return fmt.Errorf("serve containerd: %w", err)
		}
		return nil
	case <-ctx.Done():
		// The answer to the call that ended it has to get out.
		stop, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		if err := srv.Shutdown(stop); err != nil {
			return srv.Close()
		}
		return nil
	}
}

// timed counts how long a call took, by its name, and notes where its time went.
func (s *Service) timed(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo,
	method ttrpc.Method) (any, error) {
	begun := time.Now()
	defer func() { s.calls.Observe(action(info.FullMethod), time.Since(begun)) }()
	ctx, end := s.traced(ctx, info.FullMethod)
	answer, err := method(ctx, unmarshal)
	end(err)
	return answer, err
}

// action is a method's name as Kata's numbers have it: close_io for /containerd.task.v3.Task/CloseIO.
func action(method string) string {
	var b strings.Builder
	lower := false // the letter before is a small one
	for _, r := range method[strings.LastIndexByte(method, '/')+1:] {
		if unicode.IsUpper(r) && lower {
			b.WriteByte('_')
		}
		lower = !unicode.IsUpper(r)
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// closeTime bounds waiting for the answer to the call that ended the process.
const closeTime = 3 * time.Second

// idleLook is how often a shim looks whether there is anything to serve.
const idleLook = 5 * time.Second

// endIdle ends the process when two looks in a row find no container or sandbox, and none that is being made. A
// containerd that was killed after it had started this process knows nothing to ask for; 1.6 never ends it
// (https://github.com/containerd/containerd/issues/6860).
func (s *Service) endIdle(ctx context.Context, every time.Duration) {
	for idle := 0; idle < 2; {
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
		idle++
		if !s.create.TryLock() {
			idle = 0
			continue
		}
		s.mu.Lock()
		if len(s.tasks) > 0 || s.sandbox != nil {
			idle = 0
		}
		s.mu.Unlock()
		s.create.Unlock()
	}
	s.log.Info("nothing is left to serve")
	s.end()
}

// method makes a ttrpc method of a call.
func method[Req, Resp any](call func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		return call(ctx, req)
	}
}

// methods are the calls of the task service.
func (s *Service) methods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State": method(s.State), "Create": method(s.Create), "Start": method(s.Start), "Delete": method(s.Delete),
		"Pids":  method(s.Pids),
		"Pause": method(s.Pause), "Resume": method(s.Resume), "Checkpoint": method(s.Checkpoint),
		"Kill": method(s.Kill), "Exec": method(s.Exec),
		"ResizePty": method(s.ResizePty), "CloseIO": method(s.CloseIO), "Update": method(s.Update),
		"Wait": method(s.Wait), "Stats": method(s.Stats),
		"Connect": method(s.Connect), "Shutdown": method(s.Shutdown),
	}
}
