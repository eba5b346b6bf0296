// Package sandboxpb is the messages of containerd's sandbox service and of CRI's words for a pod, written by make
// generate from the file beside it in proto.
package sandboxpb
