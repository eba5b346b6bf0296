package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// DefaultRegistry is where a kubelet looks for sockets of plug-ins.
const DefaultRegistry = "/var/lib/kubelet/plugins_registry"

// specVersion is what a kubelet wants to hear of the interface. Kubernetes knows versions 1 alone.
const specVersion = "1.0.0"

// Registrar tells a kubelet of a driver, as Kubernetes' node-driver-registrar does.
type Registrar struct {
	registration.UnimplementedRegistrationServer

	Name     string // of the driver
	Endpoint string // the path of the driver's socket, as the kubelet sees it
	Folder   string // in which the kubelet looks, DefaultRegistry where empty
	Log      *slog.Logger
	refused  chan string
}

// Serve lets a kubelet find the driver until ctx ends, or it does not take the driver, which is an error.
func (r *Registrar) Serve(ctx context.Context) error {
	if !filepath.IsAbs(r.Endpoint) {
		return fmt.Errorf("registration: socket %q: want an absolute path", r.Endpoint)
	}
	folder := r.Folder
	if folder == "" {
		folder = DefaultRegistry
	}
	r.refused = make(chan string, 1)
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage))
	registration.RegisterRegistrationServer(s, r)
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, s, filepath.Join(folder, r.Name+"-reg.sock")) }()
	select {
	case err := <-ended:
		return err
	case why := <-r.refused:
		cancel()
		return errors.Join(fmt.Errorf("registration: the kubelet does not take the driver %s: %s", r.Name, why),
			<-ended)
	}
}

// GetInfo implements the kubelet's interface.
func (r *Registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: r.Name, Endpoint: r.Endpoint,
		SupportedVersions: []string{specVersion}}, nil
}

// NotifyRegistrationStatus implements the kubelet's interface.
func (r *Registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (
	*registration.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		r.Log.Info("the kubelet has taken the driver", "driver", r.Name)
		return &registration.RegistrationStatusResponse{}, nil
	}
	select {
	case r.refused <- s.GetError():
	default: // told already
	}
	return &registration.RegistrationStatusResponse{}, nil
}
