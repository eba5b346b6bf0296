package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/ci/pipelines"
	"github.com/katabuild/katabuild/internal/registry/registrytest"
	"github.com/katabuild/katabuild/internal/testenv"
)

// TestPipelinesRunOnOneMachine runs the commands of each workflow in order, as they stand in its file: the tiny guest
// is built, booted, released, signed, published in a registry, and installed into a folder that stands for a host.
func TestPipelinesRunOnOneMachine(t *testing.T) {
	need(t, testenv.Tool("make"))
	const guest = "out/tiny-x86_64"
	lock, err := os.ReadFile(abs(t, "out/tiny.lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(abs(t, guest+".lock.json"), lock, 0o644); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	in := func(name string) string { return filepath.Join(tmp, name) }
	// The store key stays the user's, whose records say that the guest is built.
	own := []string{"XDG_STATE_HOME=" + in("state")}
	if err := os.WriteFile(in("secret"), []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	katabuild(t, own, "keys", "new", in("key"), "--passphrase-file", in("secret")).want(t, 0, "ed25519 key")
	key, err := os.ReadFile(in("key"))
	if err != nil {
		t.Fatal(err)
	}
	policy := katabuild(t, own, "keys", "show", "--policy", in("key.pub"))
	policy.want(t, 0)
	if err := os.WriteFile(in("policy.yaml"), []byte(policy.out), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func([]byte) ([]pipelines.Job, error){
		"github": pipelines.GitHub, "gitlab": pipelines.GitLab, "tekton": pipelines.Tekton,
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(abs(t, "ci/pipelines/"+name+".yml"))
			if err != nil {
				t.Fatal(err)
			}
			jobs, err := read(data)
			if err != nil {
				t.Fatal(err)
			}
			host, place := t.TempDir(), "oci:"+registrytest.Distribution(t)+"/guests"
			secrets := []string{"SIGNING_KEY=" + string(key), "SIGNING_PASSPHRASE=open sesame"}
			env := append(own, "ARCH=x86_64", "RECIPE=tiny", "RELEASE=v1.4.0", "GUESTS="+guest,
				"RELEASE_DIR="+filepath.Join(host, "release"), "PUBLISH_TO="+place, "DEPLOY_FROM="+place+":stable",
				"DEPLOY_DIR="+filepath.Join(host, "pulled"), "POLICY="+in("policy.yaml"), "DESTDIR="+host)
			for _, job := range jobs {
				for _, l := range job.Run {
					l = strings.ReplaceAll(l, "${{ matrix.arch }}", "x86_64")
					said := ""
					for _, e := range [][]string{env, append(env, secrets...)} {
						cmd := exec.Command("sh", "-c", l)
						cmd.Dir = abs(t, ".")
						cmd.Env = append(os.Environ(), e...)
						r := finish(t, cmd)
						if said = r.out + r.err; l == "make sign" && len(e) == len(env) {
							r.want(t, 2, "sign: SIGNING_KEY is not set")
							continue
						}
						r.want(t, 0)
						break
					}
					t.Logf("%s: %s: %.200s", job.Name, l, said)
				}
			}
			katabuild(t, own, "list", place+":1.4.0").want(t, 0, "tiny", "1.4.0")
			if name != "tekton" {
				if _, err := os.Stat(filepath.Join(host, "opt/katabuild/current")); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
