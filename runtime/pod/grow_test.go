package pod

import (
	"testing"

	"github.com/katabuild/katabuild/runtime/machine"
)

func TestTheMachineIsAsLargeAsItsContainersOrThePodWant(t *testing.T) {
	base := machine.Size{CPUs: 1, MemoryMiB: 256}
	for name, c := range map[string]struct {
		said  Size
		sizes map[string]Size
		want  machine.Size
	}{
		"nothing is said": {Size{}, map[string]Size{"a": {}}, base},
		"the pod's alone": {Size{1500, 100}, nil, machine.Size{CPUs: 3, MemoryMiB: 356}},
		"containers within it": {Size{2000, 300}, map[string]Size{"a": {1000, 100}, "b": {1000, 200}},
			machine.Size{CPUs: 3, MemoryMiB: 556}},
		"containers beyond it": {Size{1000, 100}, map[string]Size{"a": {1000, 100}, "b": {1, 200}},
			machine.Size{CPUs: 3, MemoryMiB: 556}},
		"processors beyond it only": {Size{1000, 500}, map[string]Size{"a": {3000, 100}},
			machine.Size{CPUs: 4, MemoryMiB: 756}},
	} {
		g := growth{base: base, said: c.said, sizes: c.sizes}
		if got := g.wanted(); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
