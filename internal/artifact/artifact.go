// Package artifact holds what the builder and the components that make things tell each other about a step: what
// decides its bytes, and what it made.
package artifact

// Input is one thing that decides the bytes of a step's outputs.
type Input struct {
	Name  string // for people, unique within the step: "feature vsock", "tool gcc", "source"
	Value string // a digest, a version or the value itself; never a path of the machine, a time or an order
}

// Output is one file a step made.
type Output struct {
	Name string // unique within the step: "bzImage", "initrd"
	Path string // where the step left it, inside its output folder
}
