package release

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/registry"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/nodeimage"
)

// nodeImageFlags are what a user may say of a node's image.
type nodeImageFlags struct {
	cfg    nodeimage.Config
	policy string
}

func (h *Host) nodeImageCmd() *cobra.Command {
	var f nodeImageFlags
	c := &cobra.Command{
		Use: "node-image [RELEASE] -o LAYOUT", Args: cobra.MaximumNArgs(1),
		Short: "make the image that keeps the runtime on the nodes of a Kubernetes cluster",
		Long: `node-image makes the image of kata-deploy, for every architecture that --programs has it for: that one
static program, and with RELEASE what a node needs of a release, in /release. There is no base, no shell and nothing
else in it, and it is the same bytes every time: times are the release's.

RELEASE is a place like that of "katabuild pull", and a policy is asked about it alike. Each architecture gets its own
guests and programs, and the index with all signatures, so that nodes can ask a policy of their own.

The result is an OCI image layout: a folder that any tool which copies images takes, by the name of the version.`,
		Example: "  katabuild node-image -o out/node-image --programs dist/programs\n" +
			"  katabuild node-image out/release -o out/node-image --arch x86_64",
	}
	fl := c.Flags()
	fl.StringVarP(&f.cfg.Out, "out", "o", "", "the `folder` of the layout; one that is there is replaced")
	fl.StringVar(&f.cfg.Programs, "programs", "dist/programs", "`folder` with a folder of programs for each "+
		"architecture, as make dist leaves them")
	fl.StringArrayVar(&f.cfg.Arches, "arch", nil, "only for this architecture (repeatable)")
	fl.StringVar(&f.cfg.Version, "version", h.Version, "the image's version")
	fl.StringVar(&f.policy, "policy", "", PolicyHelp)
	access := h.Registries(fl)
	c.RunE = func(c *cobra.Command, args []string) error {
		if f.cfg.Out == "" {
			return &usage.Error{Err: errors.New("node-image needs -o LAYOUT, a folder; see: katabuild node-image " +
				"--help")}
		}
		a, err := access()
		if err != nil {
			return err
		}
		return h.nodeImage(c.Context(), f, strings.Join(args, ""), a)
	}
	return c
}

func (h *Host) nodeImage(ctx context.Context, f nodeImageFlags, release string, a registry.Access) (err error) {
	if release != "" {
		from, head, err := (origin{release, a}).open(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, from.Close()) }()
		x, by, err := h.acceptReproduced(ctx, f.policy, origin{release, a}, head)
		if err != nil {
			return err
		}
		if err := judge.Documents(ctx, x, from, claims); err != nil {
			return err
		}
		fmt.Fprintf(h.Out, "%s: accepted, signed by %s\n", release, strings.Join(by, ", "))
		f.cfg.Release = &nodeimage.Source{Head: head, Index: x, Files: from}
	}
	r, err := nodeimage.Write(ctx, f.cfg)
	if err != nil {
		return err
	}
	for _, i := range r.Images {
		fmt.Fprintf(h.Out, "%-8s %.1f MB\n", i.Arch, float64(i.Bytes)/1e6)
	}
	_, err = fmt.Fprintf(h.Out, "%s: image %s\n", f.cfg.Out, r.Digest)
	return err
}
