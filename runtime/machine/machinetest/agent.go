package machinetest

import (
	"fmt"
	"io"

	"github.com/katabuild/katabuild/internal/agentapi"
	"github.com/katabuild/katabuild/internal/agentapi/agenttest"
)

// WithAgent is a guest whose init is an agent: it says so on the console, serves, and tells the host that it does.
func WithAgent(a *agenttest.Agent) func(*Inside) {
	return func(i *Inside) {
		i.Say(agentapi.InitLine)
		l, err := i.Listen(agentapi.Port)
		if err != nil {
			i.Crash(err)
			return
		}
		if err := announce(i); err != nil {
			i.Crash(err)
			return
		}
		if err := a.Serve(l, i.vm.Spec.CommandLine, i.Over()); err != nil {
			i.Say(err.Error())
		}
	}
}

// announce tells the host that the agent serves, which it may ignore.
func announce(i *Inside) error {
	c, err := i.Dial(agentapi.ReadyPort)
	if err != nil {
		return fmt.Errorf("tell the host: %w", err)
	}
	_, err = io.WriteString(c, agentapi.ReadyLine)
	_ = c.Close() // what was written is on its way
	return err
}
