module github.com/katabuild/katabuild/ci/core

go 1.26.0

require github.com/cilium/ebpf v0.17.3

require golang.org/x/sys v0.30.0 // indirect
