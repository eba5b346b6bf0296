#!/bin/sh
# Writes katapb/ and reportpb/ from proto/. Tool versions are those of go.mod; protoc's own version does not reach the
# output
# beyond the line below.
#   go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
#   go install github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc@v1.2.10
set -eu
cd "$(dirname "$0")"
PATH="$PATH:$(go env GOPATH)/bin"
module=github.com/katabuild/katabuild/internal/agentapi
protoc -I proto --go_out=. --go_opt=module=$module --go-ttrpc_out=. --go-ttrpc_opt=module=$module \
	katabuild/agentapi/types.proto katabuild/agentapi/csi.proto katabuild/agentapi/oci.proto \
	katabuild/agentapi/health.proto \
	katabuild/agentapi/agent.proto katabuild/agentapi/report.proto
# The version of whichever protoc ran is noise: it would make `make check` fail on the next Debian.
sed -i '/^\/\/ \tprotoc  *v/d' katapb/*.pb.go reportpb/*.pb.go
gofmt -w katapb reportpb
