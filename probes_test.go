package katabuild_test

import (
	"slices"
	"testing"

	"github.com/katabuild/katabuild/agent/probe"
	"github.com/katabuild/katabuild/kernel/features"
)

// TestTheAgentHasTheProbesThatFeaturesClaim: neither knows the other, and a name of one alone would never be met, or
// never be asked for.
func TestTheAgentHasTheProbesThatFeaturesClaim(t *testing.T) {
	var claimed []string
	for _, p := range features.Proofs() {
		for _, pr := range p.Probes {
			claimed = append(claimed, pr.Name)
		}
	}
	slices.Sort(claimed)
	if has := probe.Names(); !slices.Equal(claimed, has) {
		t.Errorf("features claim %v\nthe agent has %v", claimed, has)
	}
}
