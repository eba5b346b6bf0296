package policygen

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/runtime/policygen/rules"
)

// SettingsVersion is the version of Settings that this program reads.
const SettingsVersion = 1

// Settings say what a cluster does to its pods, and what more than their objects say they may do.
// docs/formats/policy-settings.md.
type Settings struct {
	Version int `json:"version"`
	// Namespace is that of pods whose objects say none; empty is any.
	Namespace string `json:"namespace,omitempty"`
	// PauseImage is the image of pods' first container; empty is what Kubernetes' own is known to be.
	PauseImage string `json:"pause_image,omitempty"`
	// HostPaths are the files and folders of nodes that pods may have, each with what is below it.
	HostPaths []string `json:"host_paths,omitempty"`
	// Env are expressions for variables, NAME=VALUE, that containers may have beside their own.
	Env []string `json:"env,omitempty"`
	// Exec are commands that may be run in every container.
	Exec [][]string `json:"exec,omitempty"`
	// ExecInput: whoever runs a command may give it input and a terminal.
	ExecInput bool `json:"exec_input,omitempty"`
	// Sysctls are what pods may have beside their own.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Calls are calls of the guest API that the host may make as it likes.
	Calls []string `json:"calls,omitempty"`
	// Annotations are expressions for annotations, KEY=VALUE, that containers may have in their guests.
	Annotations []string `json:"annotations,omitempty"`
	// SeccompDefault: containers that ask for no seccomp profile get the runtime's, as kubelet's setting of this name
	// says.
	SeccompDefault bool `json:"seccomp_default,omitempty"`
	// NoSeccomp: guests get no profiles, as disable_guest_seccomp says.
	NoSeccomp bool `json:"no_seccomp,omitempty"`
}

// maxSettings bounds the text, in bytes.
const maxSettings = 1 << 20

// ReadSettings reads Settings. It refuses what it does not know.
func ReadSettings(text []byte) (*Settings, error) {
	if len(text) > maxSettings {
		return nil, fmt.Errorf("settings of %d bytes: want at most %d", len(text), maxSettings)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var s Settings
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("settings: want one object and nothing behind it")
	}
	if s.Version != SettingsVersion {
		return nil, fmt.Errorf("settings of version %d: want %d", s.Version, SettingsVersion)
	}
	return &s, s.check()
}

func (s *Settings) check() error {
	for _, e := range slices.Concat(s.Env, s.Annotations) {
		if _, err := regexp.Compile(e); err != nil {
			return fmt.Errorf("settings: %w", err)
		}
	}
	for _, p := range s.HostPaths {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return fmt.Errorf("settings: host_paths: %q: want an absolute path without dots", p)
		}
	}
	for _, c := range s.Exec {
		if len(c) == 0 {
			return errors.New("settings: exec: a command without words")
		}
	}
	for _, c := range s.Calls {
		if !slices.Contains(rules.Calls(), c) {
			return fmt.Errorf("settings: calls: the guest API has no call %q", c)
		}
	}
	return nil
}

// hostPath says whether pods may have a file or folder of the node.
func (s *Settings) hostPath(p string) bool {
	p = path.Clean(p)
	return slices.ContainsFunc(s.HostPaths, func(dir string) bool {
		return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
	})
}
