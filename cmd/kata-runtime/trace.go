package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/trace"
	"github.com/katabuild/katabuild/runtime/trace/picture"
)

func (a *app) traceCmd() *cobra.Command {
	var svg, asJSON bool
	c := &cobra.Command{
		Use: "trace POD", Args: cobra.ExactArgs(1), Short: "show where the time of a pod's start went",
		Long: `trace shows how a pod that runs was started: every step from containerd's first call until the pod's
first program ran, when it began and how long it took, in milliseconds. A guest's are marked with a g.

The pod must have been started with enable_tracing in [runtime] of the configuration.`,
		Example: `  kata-runtime trace POD
  kata-runtime trace --svg POD > start.svg`,
		RunE: func(c *cobra.Command, args []string) error {
			b, err := management.Client{Dirs: a.dirs, ID: args[0]}.Get(c.Context(), "/trace")
			if err != nil {
				return err
			}
			batches, err := spans.Decode(b)
			if err != nil {
				return fmt.Errorf("pod %s: %w", args[0], err)
			}
			if asJSON {
				out, err := picture.JSON(batches)
				if err != nil {
					return err
				}
				_, err = a.out.Write(out)
				return err
			}
			p, err := picture.New(batches, trace.Name)
			if err != nil {
				return fmt.Errorf("pod %s: %w: its first program does not run yet", args[0], err)
			}
			text := p.Text()
			if svg {
				text = p.SVG()
			}
			_, err = io.WriteString(a.out, text)
			return err
		},
	}
	c.Flags().BoolVar(&svg, "svg", false, "print a picture")
	c.Flags().BoolVar(&asJSON, "json", false, "print all spans that the shim keeps, in OpenTelemetry's JSON form")
	usage.Rules(c, usage.Rule{Flag: "svg", Excludes: []string{"json"}})
	return c
}
