package csi

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/katabuild/katabuild/internal/testenv"
)

// TestSanity has csi-sanity, Kubernetes' judge of CSI drivers, judge the driver.
func TestSanity(t *testing.T) {
	testenv.Require(t, testenv.Asked("KATABUILD_TEST_CSI", "test-csi"), testenv.Tool("go"))
	judge := filepath.Join(t.TempDir(), "csi-sanity")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", judge,
		"github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity")
	build.Dir = "../../ci/tools/sanity"
	build.Env = append(os.Environ(), "GOTOOLCHAIN=local", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the judge: %v: %s", err, out)
	}
	n := serveNode(t)
	out, err := exec.CommandContext(t.Context(), judge, "--csi.endpoint=unix://"+n.socket,
		"--csi.mountdir="+filepath.Join(n.dir, "mount"), "--csi.stagingdir="+filepath.Join(n.dir, "staging"),
		"--csi.testvolumesize=16777216", "--csi.testvolumeexpandsize=33554432", "--ginkgo.no-color").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
