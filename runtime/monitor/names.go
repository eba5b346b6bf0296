package monitor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxNames bounds an engine's answer, in bytes: as much as the kubelet takes.
const maxNames = 16 << 20

// CRI asks a container engine for the names of pods, by the CRI, on its UNIX socket.
func CRI(endpoint string) func(context.Context) (map[string]Name, error) {
	return func(ctx context.Context) (_ map[string]Name, err error) {
		path := strings.TrimPrefix(strings.TrimPrefix(endpoint, "unix:"), "//")
		c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxNames)))
		if err != nil {
			return nil, fmt.Errorf("names of pods from %s: %w", path, err)
		}
		defer func() { err = errors.Join(err, c.Close()) }()
		r, err := cri.NewRuntimeServiceClient(c).ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return nil, fmt.Errorf("names of pods from %s: %w", path, err)
		}
		out := map[string]Name{}
		for _, p := range r.GetItems() {
			d := p.GetMetadata()
			out[p.GetId()] = Name{UID: d.GetUid(), Name: d.GetName(), Namespace: d.GetNamespace()}
		}
		return out, nil
	}
}
