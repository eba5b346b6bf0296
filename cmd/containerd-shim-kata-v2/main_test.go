package main

import "testing"

func TestTheRuntimeHasANamePerProgram(t *testing.T) {
	for program, want := range map[string]string{
		"/usr/local/bin/containerd-shim-kata-v2": "io.containerd.kata.v2",
		"containerd-shim-katabuild-v2":           "io.containerd.katabuild.v2",
		"/x/containerd-shim-katabuild-v2":        "io.containerd.katabuild.v2", "": "io.containerd.kata.v2",
	} {
		if got := nameOf(program); got != want {
			t.Errorf("%q: %s, want %s", program, got, want)
		}
	}
}
