package install

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
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

// Options say where an installation lies and whom it tells of itself. They are kept, so that an upgrade needs none.
type Options struct {
	Suffix           string `json:"suffix,omitempty"` // tells installations on one host apart
	Bin              string `json:"bin"`              // where containerd finds the shim
	Handler          string `json:"handler"`          // of the RuntimeClass, without the suffix
	Containerd       string `json:"containerd"`       // auto, drop-in, block or no
	ContainerdConfig string `json:"containerd_config"`
	CRIO             string `json:"crio"` // auto, yes or no
}

// Defaults are the options of a first installation.
func Defaults() Options {
	return Options{Bin: defaultBin, Handler: defaultHandler, Containerd: wayAuto,
		ContainerdConfig: defaultContainerdConfig, CRIO: wayAuto}
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
	for _, p := range []string{o.Bin, o.ContainerdConfig} {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return fmt.Errorf("path %q: want an absolute one without . and .. in it", p)
		}
	}
	if all := []string{wayAuto, wayDropIn, wayBlock, wayNo}; !slices.Contains(all, o.Containerd) {
		return fmt.Errorf("containerd %q: want %s", o.Containerd, strings.Join(all, ", "))
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

// runtimeClass is the handler's name in Kubernetes.
func (o Options) runtimeClass() string { return o.dashed(o.Handler) }

// runtimeType is the runtime's name for containerd, which finds the shim's program by it.
func (o Options) runtimeType() string { return "io.containerd." + o.dashed("kata") + ".v2" }

// shimLinks are the names of the shim in the folder for programs.
func (o Options) shimLinks() []string {
	return []string{"containerd-shim-" + o.dashed("kata") + "-v2", "containerd-shim-" + o.dashed("katabuild") + "-v2"}
}

// Prefix is the folder of an installation with that suffix, below the default one's parent.
func Prefix(suffix string) string { return Options{Suffix: suffix}.dashed(DefaultPrefix) }

// RuntimeClassYAML is the object that lets pods ask for the runtime. The overhead is what a pod's QEMU and shim need
// beside the guest's memory.
func (o Options) RuntimeClassYAML() string {
	return fmt.Sprintf(`apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: %[1]s
handler: %[1]s
`, o.runtimeClass())
}
