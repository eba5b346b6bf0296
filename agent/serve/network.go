package serve

import (
	"context"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// UpdateInterface sets up one interface.
func (f *full) UpdateInterface(ctx context.Context, r *katapb.UpdateInterfaceRequest) (*katapb.Interface, error) {
	if r.Interface == nil {
		return nil, status.Error(codes.InvalidArgument, "no interface")
	}
	i, err := f.s.Network.UpdateInterface(ctx, r.Interface)
	return i, coded(err)
}

// UpdateRoutes sets up all routes.
func (f *full) UpdateRoutes(ctx context.Context, r *katapb.UpdateRoutesRequest) (*katapb.Routes, error) {
	list, err := f.s.Network.UpdateRoutes(ctx, r.GetRoutes().GetRoutes())
	return &katapb.Routes{Routes: list}, coded(err)
}

// ListInterfaces lists the interfaces.
func (f *full) ListInterfaces(context.Context, *katapb.ListInterfacesRequest) (*katapb.Interfaces, error) {
	list, err := f.s.Network.ListInterfaces()
	return &katapb.Interfaces{Interfaces: list}, coded(err)
}

// ListRoutes lists the routes.
func (f *full) ListRoutes(context.Context, *katapb.ListRoutesRequest) (*katapb.Routes, error) {
	list, err := f.s.Network.ListRoutes()
	return &katapb.Routes{Routes: list}, coded(err)
}

// AddARPNeighbors adds neighbours that are known without asking.
func (f *full) AddARPNeighbors(_ context.Context, r *katapb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	return answer(f.s.Network.AddARPNeighbors(r.GetNeighbors().GetARPNeighbors()))
}

// GetIPTables saves the packet filter's rules.
func (f *full) GetIPTables(ctx context.Context, r *katapb.GetIPTablesRequest) (*katapb.GetIPTablesResponse, error) {
	b, err := f.s.Network.IPTables(ctx, r.IsIpv6)
	return &katapb.GetIPTablesResponse{Data: b}, coded(err)
}

// SetIPTables restores rules.
func (f *full) SetIPTables(ctx context.Context, r *katapb.SetIPTablesRequest) (*katapb.SetIPTablesResponse, error) {
	b, err := f.s.Network.SetIPTables(ctx, r.IsIpv6, r.Data)
	return &katapb.SetIPTablesResponse{Data: b}, coded(err)
}
