package main

import "testing"

func TestTheRuntimeHasANamePerProgram(t *testing.T) {
	for program, want := range map[string][2]string{
		"/usr/local/bin/containerd-shim-kata-v2":  {"io.containerd.kata.v2", ""},
		"containerd-shim-katabuild-v2":            {"io.containerd.katabuild.v2", ""},
		"/x/containerd-shim-katabuild-v2":         {"io.containerd.katabuild.v2", ""},
		"/x/containerd-shim-kata-test-v2":         {"io.containerd.kata-test.v2", "test"},
		"/x/containerd-shim-katabuild-a-b-v2":     {"io.containerd.katabuild-a-b.v2", "a-b"},
		"/x/containerd-shim-kata-../../etc/pw-v2": {"io.containerd.kata.v2", ""},
		"": {"io.containerd.kata.v2", ""},
	} {
		if name, suffix := nameOf(program); name != want[0] || suffix != want[1] {
			t.Errorf("%q: %s %q, want %q", program, name, suffix, want)
		}
	}
}
