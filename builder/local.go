package builder

import (
	"fmt"

	"github.com/katabuild/katabuild/builder/inputs"
	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/checkout"
)

// checkOut refuses a folder for a build's output that is part of what is built.
func (g *Guest) checkOut(out string) error {
	for _, in := range g.lock.Inputs {
		if in.Kind != lock.Tree {
			continue
		}
		dir, err := checkout.Folder(g.of.Local(in))
		if err != nil {
			return err
		}
		if inputs.Inside(dir, out) {
			return fmt.Errorf(
				"the output folder %s lies in the folder %s, which is an input of the guest: choose another one "+
					"with -o", out, in.Where)
		}
	}
	return nil
}
