package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/arch"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/guest"
	"github.com/katabuild/katabuild/runtime/sandbox"
)

func (c *checker) user(context.Context) {
	if uid := c.system().UID; uid != 0 {
		c.say(finding.Optional, "user", "run it as root to see what the runtime sees",
			"user %d, not root: what is said of devices and programs holds for this user", uid)
		return
	}
	c.say(finding.Fine, "user", "", "root, as the runtime is")
}

// configuration says each mistake for itself.
func (c *checker) configuration(context.Context) {
	const name = "configuration"
	switch _, absent := errors.AsType[*config.NotFoundError](c.err); {
	case absent:
		c.say(finding.Missing, name, fmt.Sprintf(`make one: kata-runtime config --template > %s, and set "guest"`,
			config.Paths()[0]), "%v", c.err)
		return
	case c.err != nil:
		for _, err := range flatten(c.err) {
			if mistake, ok := errors.AsType[*config.Error](err); ok {
				c.say(finding.Missing, name, "correct it; kata-runtime config shows the line", "%s", mistake.Short())
				continue
			}
			c.say(finding.Missing, name, "correct it", "%v", err)
		}
		return
	case c.loaded == nil:
		c.say(finding.Missing, name, "", "none was given")
		return
	}
	f := c.say(finding.Fine, name, "", "%d files, of which %s is the first", len(c.loaded.Files), c.loaded.Files[0])
	if len(c.loaded.Files) == 1 {
		f.Fact = c.loaded.Files[0]
	}
	f.Details = c.loaded.Files
	if n := len(c.loaded.Warnings); n > 0 {
		f := c.say(finding.Optional, name, "kata-runtime config says more; remove what is not needed",
			"%d warnings, the first is: %s", n, c.loaded.Warnings[0])
		if n == 1 {
			f.Fact = finding.OneLine(c.loaded.Warnings[0].String())
		}
		for _, w := range c.loaded.Warnings {
			f.Details = append(f.Details, finding.OneLine(w.String()))
		}
	}
}

// flatten is the errors that were joined.
func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

const buildGuest = "build one: katabuild build"

// guestFiles reads the manifest, and every file that it names.
func (c *checker) guestFiles(context.Context) {
	const name = "guest"
	c.arch = hostArch()
	if c.cfg.VM.Kernel != "" {
		c.plainGuest()
		return
	}
	dir := c.cfg.VM.Guest
	if dir == "" {
		c.say(finding.Missing, name,
			`set "guest" in [hypervisor.`+c.cfg.Hypervisor+`] to the folder that katabuild build made`,
			"none is configured")
		return
	}
	g, err := c.cfg.VM.ReadGuest()
	if err != nil {
		wayOut := "build it anew; the folder is not what katabuild build left there"
		if errors.Is(err, fs.ErrNotExist) {
			wayOut = buildGuest
		}
		c.say(finding.Missing, name, wayOut, "%v", err)
		return
	}
	c.guest, c.arch = g, g.Arch
	m := g.Manifest
	var size int64
	var wrong int
	var files []string
	for _, f := range m.Files() {
		size += f.Size
		if err := digest.Check(filepath.Join(dir, filepath.FromSlash(f.Path)), f.Digest); err != nil {
			wrong++
			c.say(finding.Missing, "guest file "+f.Path, "copy or build the guest anew", "%v", err)
			continue
		}
		files = append(files, fmt.Sprintf("%s %s", f.Path, f.Digest))
	}
	if wrong == 0 {
		f := c.say(finding.Fine, name, "", "%s in %s: %s, kernel %s, %d files of %d MB with the right digests",
			m.Name, dir,
			m.Arch, m.Kernel.Release, len(files), size/1e6)
		f.Details = files
	}
}

// plainGuest reads the files of a guest without a manifest.
func (c *checker) plainGuest() {
	const name = "guest"
	q := &c.cfg.VM
	if c.cfg.Runtime.Attestation == config.Enforce {
		c.say(finding.Missing, name, `set attestation in [runtime] to "warn" or "off", or "guest" `+
			`to a folder that katabuild build made`,
			`%s has no manifest to compare it with, and attestation is "enforce"`, q.Kernel)
	}
	g, err := q.ReadGuest()
	if err != nil {
		wayOut := "name another image or initrd in [hypervisor." + c.cfg.Hypervisor + "]"
		if _, is := errors.AsType[*guest.KernelError](err); is {
			wayOut = "name another kernel in [hypervisor." + c.cfg.Hypervisor + "]"
		}
		c.say(finding.Missing, name, wayOut, "%v", err)
		return
	}
	c.guest, c.arch = g, g.Arch
	if host, err := arch.Parse(c.system().Accel.HostArch); err == nil && c.cfg.VM.SharedFS == config.SharedVirtioFS {
		if err := sandbox.ServesFiles(host, g.Arch); err != nil {
			c.say(finding.Missing, name, `set shared_fs = "virtio-9p" in [hypervisor.qemu]`, "%v", err)
		}
	}
	disk := q.Image + q.Initrd // one of them is empty
	sum, size, err := digest.File(disk)
	if err != nil {
		c.say(finding.Missing, name, "name another image or initrd in [hypervisor."+c.cfg.Hypervisor+"]", "%v", err)
		return
	}
	kernel, _, err := digest.File(q.Kernel)
	if err != nil {
		c.say(finding.Missing, name, "name another kernel in [hypervisor."+c.cfg.Hypervisor+"]", "%v", err)
		return
	}
	f := c.say(finding.Fine, name, "", "%s for %s, %s, and %s of %d MB, which nobody has described", g.Form,
		g.Arch.Name,
		q.Kernel, disk, size/1e6)
	f.Details = []string{fmt.Sprintf("%s %s", q.Kernel, kernel), fmt.Sprintf("%s %s", disk, sum)}
}

func (c *checker) extensions(context.Context) {
	for _, e := range c.cfg.VM.Extensions {
		name := "extension " + e.Name
		if e.Params == nil {
			if _, err := guest.ReadExtension(e.Name + "=" + e.Path); err != nil {
				c.say(finding.Missing, name, "build it, or take it out of guest_extension_images", "%v", err)
				continue
			}
		} else if _, _, err := digest.File(e.Path); err != nil {
			c.say(finding.Missing, name, "build it, or take it out of guest_extension_images", "%v", err)
			continue
		}
		c.say(finding.Fine, name, "", "%s; its contents are checked in the guest", e.Path)
	}
}
