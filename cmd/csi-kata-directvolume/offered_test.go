package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/katabuild/katabuild/runtime/csi"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/record"
)

// object is what of Kubernetes' objects has to fit the program and the other objects.
type object struct {
	Kind     string
	Metadata struct{ Name string }

	Provisioner string            // of a StorageClass
	Parameters  map[string]string // of it
	Expands     bool              `yaml:"allowVolumeExpansion"`
	Spec        yaml.RawMessage
}

// offered are the objects of a file that the driver's page offers, by kind.
func offered(t *testing.T, name string) map[string]object {
	t.Helper()
	out := map[string]object{}
	for _, doc := range strings.Split(page(t, "csi/"+name), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if _, twice := out[o.Kind]; twice || o.Kind == "" {
			t.Fatalf("%s: two of kind %q", name, o.Kind)
		}
		out[o.Kind] = o
	}
	return out
}

// page is a file of docs.
func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// flagsOf reads the flags of a command line as the program does.
func flagsOf(t *testing.T, argv []string) *app {
	t.Helper()
	a := &app{}
	c := a.root()
	if err := c.ParseFlags(argv); err != nil || len(c.Flags().Args()) > 0 {
		t.Fatalf("%q: %v", argv, err)
	}
	return a
}

// driverPod is the pod of the driver on a node.
type driverPod struct {
	Template struct {
		Spec struct {
			HostPID    bool `yaml:"hostPID"`
			Containers []struct {
				Name          string
				Command, Args []string
				Env           []struct{ Name string }
				Mounts        []struct {
					Name string
					Path string `yaml:"mountPath"`
				} `yaml:"volumeMounts"`
			}
			Volumes []struct {
				Name string
				Host struct{ Path, Type string } `yaml:"hostPath"`
			}
		}
	}
}

func TestTheDriverOfAClusterFits(t *testing.T) {
	var set driverPod
	if err := yaml.Unmarshal(offered(t, "node.yaml")["DaemonSet"].Spec, &set); err != nil {
		t.Fatal(err)
	}
	pod := set.Template.Spec
	if len(pod.Containers) != 2 || !pod.HostPID {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	driver, provisioner := pod.Containers[0], pod.Containers[1]
	if !slices.Equal(driver.Command, []string{"csi-kata-directvolume"}) || driver.Env[0].Name != "NODE_NAME" {
		t.Errorf("it starts %q with %+v", driver.Command, driver.Env)
	}
	a := flagsOf(t, driver.Args)
	if a.driver.Node != "$(NODE_NAME)" {
		t.Errorf("the node is %s", a.driver.Node)
	}
	socket := strings.TrimPrefix(a.endpoint, "unix://")
	if a.registrar.Endpoint != socket || !slices.Contains(provisioner.Args, "--csi-address="+socket) {
		t.Errorf("it serves at %s, tells the kubelet %s, and the other program has %q", socket, a.registrar.Endpoint,
			provisioner.Args)
	}
	mounted := map[string]string{}
	for _, v := range pod.Volumes {
		mounted[v.Name] = v.Host.Path
	}
	has := func(dir string) bool {
		return slices.ContainsFunc(driver.Mounts, func(m struct {
			Name string
			Path string `yaml:"mountPath"`
		}) bool {
			return m.Path == dir && mounted[m.Name] == dir // the node's own path, which the runtime reads too
		})
	}
	dirs := (record.Dirs{State: a.driver.Dirs.State}).WithDefaults()
	for _, dir := range []string{a.storage, csi.DefaultRegistry, directvolume.Root, dirs.State, dirs.Monitor,
		strings.TrimSuffix(socket, "/csi.sock"), "/var/lib/kubelet/pods"} {
		if !has(dir) {
			t.Errorf("%s is not there as it is on the node", dir)
		}
	}
}

func TestTheClassesOfTheDriverFit(t *testing.T) {
	driver := offered(t, "driver.yaml")
	if n := driver["CSIDriver"].Metadata.Name; n != csi.DefaultName {
		t.Errorf("the driver is %s", n)
	}
	class := driver["StorageClass"]
	if class.Provisioner != csi.DefaultName || !class.Expands || len(class.Parameters) == 0 {
		t.Errorf("%+v", class)
	}
	text := page(t, "csi.md")
	for p := range class.Parameters {
		if !strings.Contains(text, "`"+p+"`") {
			t.Errorf("the page has no parameter %s", p)
		}
	}
	var claim struct {
		Class string `yaml:"storageClassName"`
	}
	var pod struct {
		Volumes []struct {
			Claim struct {
				Name string `yaml:"claimName"`
			} `yaml:"persistentVolumeClaim"`
		}
	}
	example := offered(t, "example.yaml")
	if err := yaml.Unmarshal(example["PersistentVolumeClaim"].Spec, &claim); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(example["Pod"].Spec, &pod); err != nil {
		t.Fatal(err)
	}
	if claim.Class != class.Metadata.Name ||
		pod.Volumes[0].Claim.Name != example["PersistentVolumeClaim"].Metadata.Name {
		t.Errorf("%+v, %+v", claim, pod)
	}
}

// shellBlock matches the commands of a page.
var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

func TestCommandsOfThePageAreTaken(t *testing.T) {
	lines := 0
	joined := func(s string) string { return strings.ReplaceAll(s, "\\\n", " ") }
	for _, m := range shellBlock.FindAllStringSubmatch(page(t, "csi.md"), -1) {
		for l := range strings.Lines(joined(m[1])) {
			if argv := strings.Fields(l); len(argv) > 0 && argv[0] == "csi-kata-directvolume" {
				lines++
				flagsOf(t, argv[1:])
			}
		}
	}
	for l := range strings.Lines(joined(page(t, "units/csi-kata-directvolume.service"))) {
		if argv := strings.Fields(l); strings.HasPrefix(l, "ExecStart=") {
			lines++
			flagsOf(t, argv[1:])
		}
	}
	if lines < 2 {
		t.Errorf("%d command lines", lines)
	}
}
