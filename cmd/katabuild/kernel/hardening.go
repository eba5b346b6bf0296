package kernel

import (
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder"
)

func (h *Host) hardeningCmd() *cobra.Command {
	var asJSON, all bool
	c := &cobra.Command{
		Use: "hardening RECIPE|CONFIG", Args: cobra.ExactArgs(1),
		Short: "compare a kernel's options with what the Kernel Self Protection Project recommends",
		Long: `hardening compares the final configuration of a recipe's kernel, or of anything that "katabuild kernel
diff" takes, with the settings that the Kernel Self Protection Project recommends for its architecture and version.
What our kernels do not follow has its reason in kernel/hardening/exceptions.txt and is only counted; --all lists it.
What has none is listed, and the exit code is 3.`,
		Example: "  katabuild kernel hardening recipes/default\n  katabuild kernel hardening /proc/config.gz --all",
	}
	open := h.Flags(c.Flags())
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&all, "all", false, "also list what is not followed for a reason")
	c.RunE = func(c *cobra.Command, args []string) error {
		config, err := h.configOf(c.Context(), open, args[0])
		if err != nil {
			return err
		}
		r, err := builder.CheckHardening(config)
		if err != nil {
			return err
		}
		if asJSON {
			err = h.json(r)
		} else {
			err = h.printHardening(r, all)
		}
		if err == nil && r.Violations() > 0 {
			err = h.Differs
		}
		return err
	}
	return c
}

func (h *Host) printHardening(r *builder.Hardening, all bool) error {
	p := &printer{out: h.Out}
	for _, f := range r.Findings {
		if f.Except == "" {
			p.line(0, "%s is %s, recommended is %s: %s", f.Option, f.Got, f.Want, f.Rule)
		}
	}
	for _, f := range r.Findings {
		if f.Except != "" && all {
			p.line(0, "%s is %s, recommended is %s: %s", f.Option, f.Got, f.Want, f.Rule)
			p.line(1, "not followed: %s", f.Except)
		}
	}
	bad := r.Violations()
	p.line(0, "%d followed, %d not for a reason, %d without one", r.Followed, len(r.Findings)-bad, bad)
	return p.err
}
