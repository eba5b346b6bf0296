package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/agent/policy"
)

func TestThePolicyOfTheGuestIsInForce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "default-policy.rego")
	p, err := newPolicy(Config{}, file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check("ExecProcess", nil); err != nil {
		t.Errorf("without a file: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("katabuild-policy 1\ndefault deny\nallow CreateSandbox\n")
	if p, err = newPolicy(Config{}, file, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Check("ExecProcess", nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("what it denies: %v", err)
	}
	if err := p.Check("CreateSandbox", nil); err != nil {
		t.Errorf("what it allows: %v", err)
	}
	write("package agent_policy\n")
	if _, err := newPolicy(Config{}, file, nil); !errors.Is(err, policy.ErrRego) || !strings.Contains(err.Error(),
		file) {
		t.Errorf("a policy that this agent cannot read: %v", err)
	}
	if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := newPolicy(Config{}, file, nil); err == nil {
		t.Error("what is no file is taken for one")
	}
}
