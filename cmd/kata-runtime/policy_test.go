package main

import (
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/katabuild/katabuild/agent/policy"
	"github.com/katabuild/katabuild/runtime/policygen/policytest"
)

// The agent's own engine decides about real requests as the generator meant it.
func TestAnAgentObeysGeneratedPolicies(t *testing.T) {
	engines := map[string]*policy.Policy{}
	for _, name := range []string{"web", "plain", "host"} {
		p := &policy.Policy{}
		if err := p.Set(policytest.Policy(t, name, "policy")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		engines[name] = p
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

// writeLayout is the word layout: layout DIR NAME writes an image layout with an image of that name.
func writeLayout(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: layout DIR NAME")
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH,
		Config: v1.Config{Entrypoint: []string{"/bin/server"}, Env: []string{"PATH=/bin"}, User: "1000"}})
	ts.Check(err)
	p, err := layout.Write(ts.MkAbs(args[0]), empty.Index)
	ts.Check(err)
	ts.Check(p.AppendImage(img, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": args[1]})))
}
