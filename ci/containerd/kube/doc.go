// Package kube runs a cluster of one node over a containerd: etcd, kube-apiserver, kube-controller-manager,
// kube-scheduler and kubelet, built from their Go modules as kubectl and Helm are, and speaks to it.
//
// It has no kube-proxy: services have no addresses, and pods reach the API server at the node's.
package kube
