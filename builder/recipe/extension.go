package recipe

import (
	"fmt"
	"slices"

	"github.com/katabuild/katabuild/internal/extension"
	"github.com/katabuild/katabuild/internal/manifest"
)

// noExtensionKeys are what the recipe of an extension may not have, and why.
var noExtensionKeys = []struct{ field, why string }{
	{"kernel", "an extension has no kernel; it is attached to a guest that has one"},
	{"initrd", "an extension has no initrd; it is attached to a guest that has booted"},
	{"boot", "an extension does not boot; it is attached to a guest that does"},
	{"rootfs.agent", "an extension has no agent; that of the guest mounts it"},
	{"rootfs.init", "an extension has no init; it is mounted by the guest's agent"},
	{"image.filesystem", "an extension is always erofs"},
	{"image.layout", "an extension's layout is always mbr"},
	{"image.verity", "an extension always has dm-verity; nothing else says what it is"},
	{"image.label", "an extension's label is its name"},
	{"image.free_space", "an extension is read-only"},
	{"image.journal", "an extension is read-only"},
}

// checkExtension fills defaults and finds what is wrong with an extension's recipe; has says whether a field stands in
// the text.
func (r *Recipe) checkExtension(v Vocabulary, has func(field string) bool, at note) {
	for _, k := range noExtensionKeys {
		if has(k.field) {
			at(k.field, k.why)
		}
	}
	if err := extension.CheckName(r.Name); err != nil {
		at("name", err.Error())
	}
	if r.Rootfs == nil || len(r.Rootfs.Layers) == 0 {
		at("rootfs", "an extension without rootfs.layers holds nothing")
		return
	}
	if i := slices.IndexFunc(r.Rootfs.Layers, func(l Layer) bool { return l.Modules }); i >= 0 {
		at(fmt.Sprintf("rootfs.layers[%d]", i), "an extension has no kernel whose modules it could hold")
	}
	r.Initrd.Agent = AgentBuiltin // that is: no file beside the recipe
	if r.Image == nil {
		r.Image = &Image{}
	}
	r.Image.Layout = manifest.LayoutMBR
	r.checkDisk(v, at)
}
