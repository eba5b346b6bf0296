package shim

import (
	"context"
	"errors"
	"fmt"
	"net"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
)

// The services. Version 3 has the messages of version 2 under another name, byte for byte; containerd/api's own package for it would bring gRPC along.
const serviceV3 = "containerd.task.v3.Task"

// Serve answers containerd on l until ctx ends.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	taskapi.RegisterTTRPCTaskService(srv, s)
	srv.RegisterService(serviceV3, &ttrpc.ServiceDesc{Methods: s.methods()})
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
		"State": method(s.State), "Create": method(s.Create), "Start": method(s.Start), "Delete": method(s.Delete), "Pids": method(s.Pids),
		"Pause": method(s.Pause), "Resume": method(s.Resume), "Checkpoint": method(s.Checkpoint), "Kill": method(s.Kill), "Exec": method(s.Exec),
		"ResizePty": method(s.ResizePty), "CloseIO": method(s.CloseIO), "Update": method(s.Update), "Wait": method(s.Wait), "Stats": method(s.Stats),
		"Connect": method(s.Connect), "Shutdown": method(s.Shutdown),
	}
}
