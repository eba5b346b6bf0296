package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hookTime bounds a hook that sets no time of its own.
const hookTime = 30 * time.Second

// runHooks runs the hooks of the host that come before a container: prestart and createRuntime of the OCI runtime
// specification. Hooks of the container's own namespaces have no meaning on the host, and do not reach the guest.
func runHooks(ctx context.Context, spec *specs.Spec, id, bundle string, pid int) error {
	if spec.Hooks == nil {
		return nil
	}
	state := specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating, Pid: pid, Bundle: bundle,
		Annotations: spec.Annotations}
	//lint:ignore SA1019 prestart hooks are deprecated, and in use
	for _, h := range slices.Concat(spec.Hooks.Prestart,
		spec.Hooks.CreateRuntime) {
		if err := runHook(ctx, h, state); err != nil {
			return err
		}
	}
	return nil
}

// runPoststop runs the hooks that come after a container. What fails is told.
func runPoststop(ctx context.Context, spec *specs.Spec, id, bundle string, log *slog.Logger) {
	if spec.Hooks == nil {
		return
	}
	state := specs.State{Version: specs.Version, ID: id, Status: specs.StateStopped, Bundle: bundle,
		Annotations: spec.Annotations}
	for _, h := range spec.Hooks.Poststop {
		if err := runHook(ctx, h, state); err != nil {
			log.Warn("poststop", "container", id, "err", err)
		}
	}
}

func runHook(ctx context.Context, h specs.Hook, state specs.State) error {
	in, err := json.Marshal(state)
	if err != nil {
		return err
	}
	limit := hookTime
	if h.Timeout != nil && *h.Timeout > 0 {
		limit = time.Duration(*h.Timeout) * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // not nil, which would be this process's own
	cmd.Stdin = bytes.NewReader(in)
	cmd.WaitDelay = time.Second // a child of the hook may keep its output open
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done within %v", limit)
		}
		return fmt.Errorf("hook %s: %w: %s", h.Path, err, bytes.TrimSpace(out))
	}
	return nil
}
