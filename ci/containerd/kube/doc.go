// Package kube runs a cluster of one node over a containerd: etcd, kube-apiserver and kubelet, built from their Go
// modules, and speaks to it.
//
// It has no scheduler and no controllers: a pod names its node, and a test removes the pods it makes.
package kube
