package rego

import (
	"testing"

	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/runtime/policygen/policytest"
)

// What the generator writes in Rego decides about real requests as what it writes in the agent's own language.
func TestGeneratedPoliciesAreObeyed(t *testing.T) {
	engines := map[string]policy.Engine{}
	for _, name := range []string{"web", "plain", "host"} {
		e, err := Read(policytest.Policy(t, name, "rego"), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		engines[name] = e
	}
	for pod, list := range policytest.Allowed(t) {
		for _, r := range list {
			if err := engines[pod].Check(r.Call, r.Message); err != nil {
				t.Errorf("pod %s, %s: %v\n%v", pod, r.Name, err, r.Message)
			}
		}
	}
	for _, r := range policytest.Refused(t) {
		if engines["web"].Check(r.Call, r.Message) == nil {
			t.Errorf("%s: allowed", r.Name)
		}
	}
}
