package install

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/releases/install/distribution"
)

// Where things are unless somebody says otherwise.
const (
	DefaultPrefix           = "/opt/katabuild"
	defaultBin              = "/usr/local/bin"
	defaultContainerdConfig = "/etc/containerd/config.toml"
	defaultHandler          = "kata"
)

// Ways to tell containerd or CRI-O of the runtime.
const (
	wayAuto   = "auto"    // containerd: a drop-in where its main file imports the folder, else a block in that file
	wayNo     = "no"      // not at all
	wayYes    = "yes"     // CRI-O alone
	wayDropIn = "drop-in" // containerd 2
	wayBlock  = "block"   // any containerd
)

// Ways for containerd 2 to make pods.
const (
	sandboxerPod  = "podsandbox" // by a first container
	sandboxerShim = "shim"       // by the shim's sandbox service
)

// Options say where an installation lies and whom it tells of itself. They are kept, so that an upgrade needs none.
type Options struct {
	Suffix           string `json:"suffix,omitempty"` // tells installations on one host apart
	Bin              string `json:"bin"`              // where containerd finds the shim
	Handler          string `json:"handler"`          // of the RuntimeClass, without the suffix
	Containerd       string `json:"containerd"`       // auto, drop-in, block or no
	ContainerdConfig string `json:"containerd_config"`
	CRIO             string `json:"crio"` // auto, yes or no
	// Sandboxer is who makes pods for containerd 2: podsandbox, its default, or shim; empty is podsandbox. Containerd
	// 1 knows no other.
	Sandboxer string `json:"sandboxer,omitempty"`
	// Layout is where a distribution of Kubernetes takes containerd's settings from; the zero value is for a containerd
	// of the host's own.
	Layout distribution.Layout `json:"layout,omitzero"`
	// Place is where the release came from, for whoever asks whether that is what is to be installed; empty is unknown.
	Place string `json:"place,omitempty"`
}

// On are the options for a host with what was found on it: whom it tells of itself, and in which file.
func (o Options) On(f distribution.Found) Options {
	o.Layout, o.ContainerdConfig, o.Containerd, o.CRIO = f.Layout, f.Config, wayNo, wayNo
	if f.Containerd {
		o.Containerd = wayAuto
	}
	if f.CRIO {
		o.CRIO = wayYes
	}
	return o
}

// Defaults are the options of a first installation.
func Defaults() Options {
	return Options{Bin: defaultBin, Handler: defaultHandler, Containerd: wayAuto,
		ContainerdConfig: defaultContainerdConfig, CRIO: wayAuto}
}

// Units are those of systemd that run the daemons which are told. Of those of a distribution one is there.
func (o Options) Units() []string {
	var out []string
	switch {
	case o.Layout.Name != "":
		out = slices.Clone(distribution.Units(o.Layout.Name))
	case o.Containerd != wayNo:
		out = distribution.Units("containerd")
	}
	for _, u := range distribution.Units("crio") {
		if o.CRIO != wayNo && !slices.Contains(out, u) {
			out = append(slices.Clone(out), u)
		}
	}
	return out
}

// suffixWord is the form of suffixes and handlers: those of a RuntimeClass's name (RFC 1123).
var suffixWord = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (o Options) check() error {
	if o.Suffix != "" && !suffixWord.MatchString(o.Suffix) {
		return fmt.Errorf("suffix %q: want 1 to 32 of a-z, 0-9 and dashes, with a letter or digit first and last",
			o.Suffix)
	}
	if !suffixWord.MatchString(o.Handler) {
		return fmt.Errorf("handler %q: want 1 to 32 of a-z, 0-9 and dashes, with a letter or digit first and last",
			o.Handler)
	}
	paths := []string{o.Bin, o.ContainerdConfig}
	for _, p := range []string{o.Layout.Main, o.Layout.DropIns} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	for _, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return fmt.Errorf("path %q: want an absolute one without . and .. in it", p)
		}
	}
	if all := []string{wayAuto, wayDropIn, wayBlock, wayNo}; !slices.Contains(all, o.Containerd) {
		return fmt.Errorf("containerd %q: want %s", o.Containerd, strings.Join(all, ", "))
	}
	if all := []string{"", sandboxerPod, sandboxerShim}; !slices.Contains(all, o.Sandboxer) {
		return fmt.Errorf("sandboxer %q: want %s", o.Sandboxer, strings.Join(all[1:], " or "))
	}
	if all := []string{wayAuto, wayYes, wayNo}; !slices.Contains(all, o.CRIO) {
		return fmt.Errorf("crio %q: want %s", o.CRIO, strings.Join(all, ", "))
	}
	return nil
}

// dashed puts the suffix behind a name.
func (o Options) dashed(name string) string {
	if o.Suffix == "" {
		return name
	}
	return name + "-" + o.Suffix
}

// RuntimeClass is the handler's name in Kubernetes.
func (o Options) RuntimeClass() string { return o.dashed(o.Handler) }

// runtimeType is the runtime's name for containerd, which finds the shim's program by it.
func (o Options) runtimeType() string { return "io.containerd." + o.dashed("kata") + ".v2" }

// shimLinks are the names of the shim in the folder for programs.
func (o Options) shimLinks() []string {
	return []string{"containerd-shim-" + o.dashed("kata") + "-v2", "containerd-shim-" + o.dashed("katabuild") + "-v2"}
}

// RuntimePath is the program kata-runtime of an installation, on its host.
func (o Options) RuntimePath() string { return path.Join(o.Bin, o.dashed(runtimeProgram)) }

// Prefix is the folder of an installation with that suffix, below the default one's parent.
func Prefix(suffix string) string { return Options{Suffix: suffix}.dashed(DefaultPrefix) }

// What a pod's QEMU, virtiofsd and shim, and its guest's kernel and agent, need on the host beside what its containers
// use, for the scheduler and the pod's control group. make test-kubernetes measures it: 222 MiB where QEMU emulates, of
// which some 80 are for that alone (docs/kubernetes.md). The chart has the same figures.
const (
	overheadMemory = "160Mi"
	overheadCPU    = "250m"
)

// RuntimeClassYAML is the object that lets pods ask for the runtime, and says what such a pod needs besides. With the
// key of a label, pods only go to nodes where that label is true. Kubernetes: docs/concepts/containers/runtime-class.
func (o Options) RuntimeClassYAML(nodeLabel string) string {
	out := fmt.Sprintf(`apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: %[1]s
handler: %[1]s
overhead:
  podFixed:
    memory: %[2]s
    cpu: %[3]s
`, o.RuntimeClass(), overheadMemory, overheadCPU)
	if nodeLabel != "" {
		out += fmt.Sprintf("scheduling:\n  nodeSelector:\n    %s: \"true\"\n", nodeLabel)
	}
	return out
}
