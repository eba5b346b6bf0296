package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/katabuild/katabuild/agent/policy"
)

// policyFile is the policy that is in force before a host brings another one, where the guest has it. The path is Kata
// Containers'.
const policyFile = "/etc/kata-opa/default-policy.rego"

// newPolicy is the policy of a guest with this file. A policy that cannot be read ends the guest: it was put there so
// that not everything is allowed.
func newPolicy(c Config, file string, log *slog.Logger) (*policy.Policy, error) {
	p := &policy.Policy{Rego: c.Rego, Log: log}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, fmt.Errorf("policy of the guest: %w", err)
	}
	if err := p.Set(string(text)); err != nil {
		return nil, fmt.Errorf("policy of the guest, %s: %w", file, err)
	}
	return p, nil
}
