package install

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/document"
)

// Names below the prefix.
const (
	releasesName = "releases" // a folder a release
	keptName     = "kept"     // files of whoever keeps the installation
	statesName   = "states"   // a folder a state
	currentName  = "current"  // a link to the state in force
	lockName     = ".lock"
	contentsName = "files.json"
	stateName    = "state.json"
	releaseLink  = "release" // in a state: a link to its release
)

// Names in a state, which files elsewhere lead to.
const (
	configurationName = "configuration.toml"
	dropInName        = "containerd.toml"
	crioName          = "crio.conf"
	dropInsName       = "config.d" // of configuration.toml
)

const stateVersion = 1

// state says what is installed. It is a folder of its own, and what current leads to is in force.
type state struct {
	Version  int     `json:"version"`
	Release  string  `json:"release"`
	Previous string  `json:"previous,omitempty"` // the release before, which rollback goes back to
	Options  Options `json:"options"`
	// Links are the symbolic links outside of the prefix, sorted.
	Links []string `json:"links"`
	// Block is the text in containerd's main file; empty where there is none.
	Block string `json:"block,omitempty"`
	// MadeConfig says that containerd's main file is ours but for what others add to it.
	MadeConfig bool `json:"made_config,omitempty"`
	// Made are folders that were not there before, outermost first. They go when they are empty.
	Made []string `json:"made,omitempty"`
}

// name is the state's folder.
func (s *state) name() (string, error) {
	data, err := document.Encode(s)
	return digest.Of(data).Hex()[:16], err
}

func decodeState(data []byte) (*state, error) {
	var s state
	if err := document.Decode(stateName, data, &s); err != nil {
		return nil, err
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("%s: version %d, want %d", stateName, s.Version, stateVersion)
	}
	if !versionWord.MatchString(s.Release) || s.Previous != "" && !versionWord.MatchString(s.Previous) {
		return nil, fmt.Errorf("%s: %q or %q is no release's name", stateName, s.Release, s.Previous)
	}
	if err := s.Options.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", stateName, err)
	}
	for _, p := range slices.Concat(s.Links, s.Made) {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return nil, fmt.Errorf("%s: %q is no absolute path", stateName, p)
		}
	}
	return &s, nil
}

// current reads the state in force; nil where nothing is installed.
func (i *Installation) current() (*state, error) {
	name, err := i.host.link(i.at(currentName))
	if err != nil || name == "" {
		return nil, err
	}
	dir, base := path.Split(name)
	if path.Clean(dir) != statesName || base == "" {
		return nil, fmt.Errorf("%s leads to %q, want a folder of %s: somebody changed it", i.at(currentName), name,
			i.at(statesName))
	}
	data, ok, err := i.host.text(i.at(statesName, base, stateName))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%s has no %s: somebody removed it; uninstall and install anew", i.at(currentName),
			stateName)
	}
	return decodeState(data)
}

// contents reads what a release has.
func (i *Installation) contents(release string) (contents, error) {
	data, ok, err := i.host.text(i.at(releasesName, release, contentsName))
	if err == nil && !ok {
		err = errors.New("it is not installed")
	}
	if err != nil {
		return contents{}, fmt.Errorf("release %s: %w", release, err)
	}
	c, err := decodeContents(data)
	if err != nil {
		return contents{}, fmt.Errorf("release %s: %w", release, err)
	}
	return c, nil
}
