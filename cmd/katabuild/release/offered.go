package release

import (
	"path/filepath"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/releases/admit"
	"github.com/katabuild/katabuild/releases/policy"
)

// origin is where a release came from.
type origin struct {
	place  string
	access registry.Access
}

// asker asks a policy, with the memory of this host.
func (h *Host) asker(p *policy.Policy, at origin) *admit.Asker {
	return &admit.Asker{Policy: p, Now: h.Now, Access: at.access, Memory: func(root []byte) (string, error) {
		return h.stateFile(filepath.Join("roles", digest.Of(root).Hex()+".json"))
	}}
}
