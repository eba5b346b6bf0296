package stage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"github.com/katabuild/katabuild/agent/slack"
)

// maxHookOutput bounds what an error quotes of a hook's output.
const maxHookOutput = 1 << 10

// Command is the hook as a command without standard streams, and its input.
func (h Hook) Command(ctx context.Context, s State) (*exec.Cmd, []byte, error) {
	in, err := json.Marshal(s)
	if err != nil {
		return nil, nil, fmt.Errorf("%s hook %s: %w", h.Kind, h.Path, err)
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...) // nil would be the agent's own
	return cmd, in, nil
}

// Failure is the error of a hook that did not end well.
func (h Hook) Failure(err error, output []byte) error {
	out := strings.TrimSpace(string(output[:min(len(output), maxHookOutput)]))
	if out == "" {
		return fmt.Errorf("%s hook %s: %w", h.Kind, h.Path, err)
	}
	return fmt.Errorf("%s hook %s: %w: %s", h.Kind, h.Path, err, out)
}

// run runs a hook in the container's namespaces.
func (h Hook) run(s State) error {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if h.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, h.Timeout)
	}
	defer cancel()
	cmd, in, err := h.Command(ctx, s)
	if err != nil {
		return err
	}
	cmd.Stdin = bytes.NewReader(in)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = h.Timeout
	if _, err := slack.Without(func() (struct{}, error) { return struct{}{}, cmd.Run() }); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("not done after %v", h.Timeout)
		}
		return h.Failure(err, out.Bytes())
	}
	return nil
}
